//go:build !race

package door

// withRace: the tests were built with the race detector, and so is the daemon then.
const withRace = false
