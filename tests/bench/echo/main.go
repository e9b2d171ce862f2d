// Command echo is the anchor of the benchmark: the least that a Go server on package net
// can do with a question, a goroutine for each connection, no thought and no memory.
package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
)

const answer = "action=accept ref=0000000000 log=\"ok\" text=\"\" osm=1\n"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: echo SOCKET")
		os.Exit(2)
	}
	l, err := net.Listen("unix", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
	if err := os.Chmod(os.Args[1], 0o666); err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, "echo:", err)
			os.Exit(1)
		}
		go serve(c)
	}
}

func serve(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 16<<10)
	n := 0
	for n < len(buf) {
		m, err := c.Read(buf[n:])
		n += m
		if err != nil || bytes.HasSuffix(buf[:n], []byte("\n\n")) {
			break
		}
	}
	_, _ = c.Write([]byte(answer))
}
