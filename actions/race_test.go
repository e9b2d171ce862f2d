//go:build race

package actions

// slowdown is how much longer the race detector makes what is timed last.
const slowdown = 10
