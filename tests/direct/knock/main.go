// Command knock makes TCP connections as a script that bypasses the mail server does. It is
// built without cgo, so that it is a static binary.
package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

func main() {
	to := flag.String("to", "", "connect to `ADDRESS`")
	n := flag.Int("n", 1, "this many times")
	rate := flag.Int("rate", 0, "so many a second; 0: as fast as it goes")
	stay := flag.Duration("stay", 0, "stay connected, or refused, and alive for so long each time")
	fork := flag.Bool("each", false, "each time as a process of its own")
	keep := flag.Bool("keep", false, "keep all connections, and live, until standard input ends")
	flag.Parse()
	failed := 0
	start := time.Now()
	var children []*os.Process
	for i := range *n {
		if *rate > 0 {
			time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(*rate))))
		}
		if !*fork {
			failed += knock(*to, *stay, *keep)
			continue
		}
		p, err := os.StartProcess("/proc/self/exe", []string{"knock", "-to", *to, "-stay", stay.String(), fmt.Sprint("-keep=", *keep)},
			&os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		children = append(children, p)
	}
	if *keep {
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
	for _, p := range children {
		if s, err := p.Wait(); err != nil || !s.Success() {
			failed++
		}
	}
	if failed > 0 {
		fmt.Fprintf(os.Stderr, "knock: %d of %d failed\n", failed, *n)
		os.Exit(1)
	}
}

// knock makes one connection by bare system calls: the life of the process after connect is
// stay and nothing else. What is to be kept is closed with the process.
func knock(to string, stay time.Duration, keep bool) int {
	a, err := net.ResolveTCPAddr("tcp", to)
	if err != nil {
		return 1
	}
	family, sa := syscall.AF_INET6, syscall.Sockaddr(&syscall.SockaddrInet6{Port: a.Port, Addr: [16]byte(a.IP.To16())})
	if v4 := a.IP.To4(); v4 != nil {
		family, sa = syscall.AF_INET, &syscall.SockaddrInet4{Port: a.Port, Addr: [4]byte(v4)}
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 1
	}
	if !keep {
		defer syscall.Close(fd)
	}
	err = syscall.Connect(fd, sa)
	time.Sleep(stay)
	if err != nil {
		return 1
	}
	return 0
}
