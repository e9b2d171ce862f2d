// Command osmctl asks the running daemon who sends what, why a message was stopped,
// and changes limits, holds and held mail.
//
// main.go starts it; app.go has the command line as a whole; each other file is one
// group of commands, and output.go, words.go the way in which all of them print.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// version is set at build time.
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	e := env{
		out: os.Stdout, err: os.Stderr, in: os.Stdin, now: time.Now, loc: time.Local,
		uid: os.Geteuid(), sudoUser: os.Getenv("SUDO_USER"),
	}
	if size, err := unix.IoctlGetWinsize(int(os.Stdout.Fd()), unix.TIOCGWINSZ); err == nil {
		e.terminal, e.width = true, int(size.Col)
	}
	_, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS)
	e.asks = err == nil
	code := run(ctx, &e, os.Args)
	stop()
	os.Exit(code)
}
