//go:build !race

package actions

// slowdown is how much longer what is timed lasts.
const slowdown = 1
