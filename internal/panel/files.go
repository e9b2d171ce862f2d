package panel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"
)

// Limits on what a file of accounts may be. The files are the panel's, but what they
// say is the customers' (domain names), and a disk that fills cuts them anywhere.
const (
	maxFile  = 64 << 20
	maxLines = 2_000_000
	maxLine  = 4096
)

// LineError says which line of a file could not be understood.
type LineError struct {
	Line int // from 1
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

func (e *LineError) Unwrap() error { return e.Err }

// scan calls f for each line that is not empty and no comment, without the white
// space around it. It goes on behind a line that f refuses and returns the first such
// line as a [LineError]; what breaks a limit ends it.
func scan(b []byte, f func(line string) error) error {
	var first error
	n := 0
	for raw := range bytes.Lines(b) {
		if n++; n > maxLines {
			return &LineError{Line: n, Err: fmt.Errorf("more than %d lines", maxLines)}
		}
		if len(raw) > maxLine {
			first = keep(first, n, fmt.Errorf("longer than %d bytes", maxLine))
			continue
		}
		line := strings.TrimSpace(string(raw))
		if line == "" || line[0] == '#' {
			continue
		}
		if err := f(line); err != nil {
			first = keep(first, n, err)
		}
	}
	return first
}

func keep(first error, line int, err error) error {
	if first != nil {
		return first
	}
	return &LineError{Line: line, Err: err}
}

// stamp tells whether a file has changed since it was read.
type stamp struct {
	path     string
	dev, ino uint64
	size     int64
	modified time.Time
}

func stampOf(path string, fi os.FileInfo) stamp {
	s := stamp{path: path, size: fi.Size(), modified: fi.ModTime()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		s.dev, s.ino = uint64(st.Dev), st.Ino
	}
	return s
}

// errChanging says that a file was written to while it was read.
var errChanging = errors.New("changed while it was read")

// content is one file as it was read.
type content struct {
	stamp stamp
	bytes []byte
}

// ends reports whether the content ends with an end of line.
func (c content) ends() bool { return bytes.HasSuffix(c.bytes, []byte{'\n'}) }

// open opens the first of paths that exists and may be read. A path that exists and
// may not be read by us is followed by its exported copy; with made also one that does
// not exist, as its copy is then made of other files.
func open(paths []string, made bool) (*os.File, string, error) {
	var first error
	for _, path := range paths {
		f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err == nil {
			return f, path, nil
		}
		if first == nil {
			first = err
		}
		if !errors.Is(err, os.ErrPermission) && (!made || !errors.Is(err, os.ErrNotExist)) {
			break
		}
	}
	return nil, "", first
}

// read reads the first readable of paths whole, or nothing: [errChanging] when it was
// written to meanwhile.
func read(paths []string, made bool) (content, error) {
	f, path, err := open(paths, made)
	if err != nil {
		return content{}, err
	}
	defer func() { _ = f.Close() }() // opened for reading
	before, err := f.Stat()
	if err != nil {
		return content{}, fmt.Errorf("read %s: %w", path, err)
	}
	if !before.Mode().IsRegular() {
		return content{}, fmt.Errorf("read %s: not a regular file", path)
	}
	if before.Size() > maxFile {
		return content{}, fmt.Errorf("read %s: %d bytes, at most %d are read", path, before.Size(), maxFile)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return content{}, fmt.Errorf("read %s: %w", path, err)
	}
	after, err := f.Stat()
	if err != nil {
		return content{}, fmt.Errorf("read %s: %w", path, err)
	}
	c := content{stamp: stampOf(path, after), bytes: b}
	if c.stamp != stampOf(path, before) || int64(len(b)) != after.Size() {
		return content{}, fmt.Errorf("read %s: %w", path, errChanging)
	}
	return c, nil
}

// current returns the stamp of the first readable of paths, the zero stamp if none is.
func current(paths []string, made bool) stamp {
	f, path, err := open(paths, made)
	if err != nil {
		return stamp{}
	}
	defer func() { _ = f.Close() }() // opened for reading
	fi, err := f.Stat()
	if err != nil {
		return stamp{}
	}
	return stampOf(path, fi)
}
