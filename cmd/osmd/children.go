package main

import (
	"os"
	"strconv"
	"strings"
	"sync"
)

// children are the parts that stay root and that the first stage started. They end by
// themselves when the daemon is gone.
type children struct {
	mu    sync.Mutex
	ended []string
}

// watchChildren notices the end of each. There are none under systemd.
func watchChildren() *children {
	c := &children{}
	for item := range strings.SplitSeq(os.Getenv(childrenEnv), ",") {
		name, number, _ := strings.Cut(item, "=")
		pid, err := strconv.Atoi(number)
		if err != nil {
			continue
		}
		go func() { // ends with the child, or with the process
			if p, err := os.FindProcess(pid); err == nil {
				_, _ = p.Wait()
			}
			c.mu.Lock()
			c.ended = append(c.ended, name)
			c.mu.Unlock()
		}()
	}
	return c
}

func (c *children) gone() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.ended...)
}
