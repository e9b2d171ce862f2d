package packetmon

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf/asm"
)

// Bounds of a tracepoint's description. The longest that the kernel has are a few KiB.
const (
	maxFormat = 64 << 10 // bytes of the file
	maxRecord = 4096     // bytes of the record that it describes
)

// hidden is how much of a record's beginning the kernel keeps from programs.
const hidden = 8

// tracefsPlaces are where tracefs is mounted: systemd mounts it at the first, and below
// debugfs it appears by itself.
func tracefsPlaces() []string { return []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} }

// findTracefs returns the first of those directories that tracefs is mounted at.
func findTracefs(places []string) (string, error) {
	for _, dir := range places {
		_, err := os.Stat(filepath.Join(dir, "events"))
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("look for tracefs: %w%s", err, readingHint(err))
		}
	}
	return "", errors.New("tracefs is not mounted (mount -t tracefs tracefs /sys/kernel/tracing)")
}

func readingHint(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return " (needs to be root, or CAP_DAC_READ_SEARCH)"
	}
	return ""
}

// field is where in its records a tracepoint has a value.
type field struct{ offset, size int }

// format is what a tracepoint's description says of its records. It differs between
// kernels: a protocol that became two bytes wide moved all that comes after it.
type format struct {
	id     uint64
	fields map[string]field
}

// readFormat reads a tracepoint's description in tracefs.
func readFormat(tracefs, group, name string) (format, error) {
	file, err := os.Open(filepath.Join(tracefs, "events", group, name, "format"))
	if errors.Is(err, fs.ErrNotExist) {
		return format{}, fmt.Errorf("this kernel has no tracepoint %s:%s (Linux has it since 4.16)", group, name)
	}
	if err != nil {
		return format{}, fmt.Errorf("read the tracepoint's description: %w%s", err, readingHint(err))
	}
	defer func() { _ = file.Close() }() // only read
	text, err := io.ReadAll(io.LimitReader(file, maxFormat+1))
	if err != nil {
		return format{}, fmt.Errorf("read the tracepoint's description: %w", err)
	}
	f, err := parseFormat(text)
	if err != nil {
		return format{}, fmt.Errorf("tracepoint %s:%s: %w", group, name, err)
	}
	return f, nil
}

// parseFormat reads the lines of a description that tell the number and the fields:
//
//	ID: 2287
//		field:__u8 saddr[4];	offset:32;	size:4;	signed:0;
func parseFormat(text []byte) (format, error) {
	if len(text) > maxFormat {
		return format{}, fmt.Errorf("its description is longer than %d bytes", maxFormat)
	}
	f := format{fields: map[string]field{}}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if id, ok := strings.CutPrefix(line, "ID:"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(id), 10, 32)
			if err != nil || n == 0 {
				return format{}, fmt.Errorf("its number %.40q is none", id)
			}
			f.id = n
		}
		if declared, ok := strings.CutPrefix(line, "field:"); ok {
			name, at, err := parseField(declared)
			if err != nil {
				return format{}, err
			}
			f.fields[name] = at
		}
	}
	if err := lines.Err(); err != nil {
		return format{}, fmt.Errorf("read its description: %w", err)
	}
	if f.id == 0 {
		return format{}, errors.New("its description has no number")
	}
	return f, nil
}

// parseField reads a field's line after "field:".
func parseField(line string) (string, field, error) {
	parts := strings.Split(line, ";")
	declaration := strings.Fields(parts[0])
	var name string
	if n := len(declaration); n > 0 {
		name, _, _ = strings.Cut(declaration[n-1], "[")
	}
	if name == "" {
		return "", field{}, fmt.Errorf("its field %.80q has no name", line)
	}
	at := field{-1, -1}
	for _, part := range parts[1:] {
		key, value, _ := strings.Cut(strings.TrimSpace(part), ":")
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 || n > maxRecord {
			n = -1
		}
		switch key {
		case "offset":
			at.offset = n
		case "size":
			at.size = n
		}
	}
	if at.offset < 0 || at.size < 0 || at.offset+at.size > maxRecord {
		return "", field{}, fmt.Errorf("its field %.80q has no place", line)
	}
	return name, at, nil
}

// number returns where a field is that is a number of one of those sizes. Programs may
// read it in one piece only where it is aligned, as the kernel's compiler sees to.
func (f format) number(name string, sizes ...asm.Size) (int16, asm.Size, error) {
	at, ok := f.fields[name]
	if !ok {
		return 0, 0, fmt.Errorf("it has no field %s", name)
	}
	for _, size := range sizes {
		if at.size == size.Sizeof() && at.offset >= hidden && at.offset%at.size == 0 {
			return int16(at.offset), size, nil
		}
	}
	return 0, 0, fmt.Errorf("its field %s of %d bytes at %d is not one this program can read", name, at.size, at.offset)
}

// address returns where a field is that is an IPv6 address, aligned or not.
func (f format) address(name string) (int16, error) {
	at, ok := f.fields[name]
	if !ok {
		return 0, fmt.Errorf("it has no field %s", name)
	}
	if at.size != 16 || at.offset < hidden {
		return 0, fmt.Errorf("its field %s of %d bytes at %d is no IPv6 address", name, at.size, at.offset)
	}
	return int16(at.offset), nil
}

// stateLayout is where a record of sock:inet_sock_set_state has what the program reads. The
// addresses are those of IPv6, which the kernel fills for IPv4 too, mapped.
type stateLayout struct {
	socket, oldState, newState, family, protocol int16
	protocolSize                                 asm.Size
	localPort, remotePort                        int16
	local, remote                                int16
}

func (f format) stateLayout() (stateLayout, error) {
	var l stateLayout
	var errs [9]error
	l.socket, _, errs[0] = f.number("skaddr", asm.DWord)
	l.oldState, _, errs[1] = f.number("oldstate", asm.Word)
	l.newState, _, errs[2] = f.number("newstate", asm.Word)
	l.family, _, errs[3] = f.number("family", asm.Half)
	l.protocol, l.protocolSize, errs[4] = f.number("protocol", asm.Byte, asm.Half)
	l.localPort, _, errs[5] = f.number("sport", asm.Half)
	l.remotePort, _, errs[6] = f.number("dport", asm.Half)
	l.local, errs[7] = f.address("saddr_v6")
	l.remote, errs[8] = f.address("daddr_v6")
	for _, err := range errs {
		if err != nil {
			return stateLayout{}, err
		}
	}
	return l, nil
}
