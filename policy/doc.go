// Package policy says whose message a submission is and what is to happen to it.
//
// It is pure: it does no I/O, starts no goroutine and never reads the clock. The
// kernel's word on who submitted ([Origin]) and the panel's account maps
// ([AccountMap]) are handed in as values; the time is handed in as a [Moment].
//
// The way of one message: a front-end parses a [Submission], [Identify] finds its
// [Identity], [Engine.Check] counts it and answers with a [Decision], which the
// front-end turns into its own wire's answer and the daemon records afterwards.
package policy
