// Package faults holds the fault table as tests: whatever happens to the daemon, its
// database, its configuration or its parts, the mail of the real Exim goes on, nothing is
// lost, nobody waits longer than promised, and somebody is told.
package faults
