package lab

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Queued is one message in Exim's queue, as its -H file tells.
type Queued struct {
	ID, Subject, Sender, Path string
	Frozen                    bool
}

// Exim keeps the length and a letter before each header line.
var (
	spoolSubject = regexp.MustCompile(`(?m)^\d{3,}[A-Z ] Subject: (.*)$`)
	spoolFrozen  = regexp.MustCompile(`(?m)^-frozen \d+$`)
)

// ReadQueue reads the whole queue.
func (l *Lab) ReadQueue() ([]Queued, error) {
	paths, err := filepath.Glob(l.Spool + "/input/*/*-H")
	if err != nil {
		return nil, err
	}
	flat, err := filepath.Glob(l.Spool + "/input/*-H")
	if err != nil {
		return nil, err
	}
	var out []Queued
	for _, path := range append(paths, flat...) {
		b, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			continue // delivered meanwhile
		}
		if err != nil {
			return nil, err
		}
		q := Queued{ID: strings.TrimSuffix(filepath.Base(path), "-H"), Path: path, Frozen: spoolFrozen.Match(b)}
		if m := spoolSubject.FindSubmatch(b); m != nil {
			q.Subject = string(m[1])
		}
		if lines := strings.SplitN(string(b), "\n", 4); len(lines) == 4 {
			q.Sender = strings.Trim(lines[2], "<>")
		}
		out = append(out, q)
	}
	return out, nil
}

// EmptySpool forgets all accepted messages; nobody may be sending or delivering.
func (l *Lab) EmptySpool() error {
	for _, d := range []string{"/input", "/msglog"} {
		if err := os.RemoveAll(l.Spool + d); err != nil {
			return err
		}
	}
	return nil
}

// Hangup ends the connection without waiting for the answer to QUIT, which Exim holds
// back until the client has closed.
func (s *Session) Hangup() {
	_ = s.text.PrintfLine("QUIT")
	_ = s.c.Close()
}
