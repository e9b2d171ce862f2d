package evidence

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"osm/policy"
)

// Pool is where the status page of one of php-fpm's pools is to be had.
type Pool struct {
	Name       string // as in the workers' title
	Address    string // of pm.status_listen or, without one, listen: a socket's path, or address and port of loopback
	StatusPath string // pm.status_path
}

// network tells a socket from a TCP address, which must be this host's.
func (p Pool) network() (string, error) {
	if strings.HasPrefix(p.Address, "/") {
		return "unix", nil
	}
	a, err := netip.ParseAddrPort(p.Address)
	if err != nil || !a.Addr().IsLoopback() {
		return "", fmt.Errorf("%.80q is neither a socket nor a loopback address: only this host is asked", p.Address)
	}
	return "tcp", nil
}

const (
	maxPoolFile  = 64 << 10
	maxPoolFiles = 4096
	poolsAge     = 60_000 // milliseconds after which the files are read again
)

// pools knows the pools: configured ones, and those found in php-fpm's own files.
type pools struct {
	fixed []Pool
	globs []string
	now   func() policy.Moment

	mu    sync.Mutex
	read  int64 // boot time
	found []Pool
}

// named are all pools of that name: each version of PHP may have one.
func (p *pools) named(name string) []Pool {
	return p.like(func(pool Pool) bool { return pool.Name == name })
}

// like are the pools that are meant, each once.
func (p *pools) like(meant func(Pool) bool) []Pool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := p.now().Boot; len(p.globs) > 0 && (p.read == 0 || now-p.read > poolsAge) {
		p.found, p.read = readPools(p.globs), now
	}
	var out []Pool
	for _, list := range [][]Pool{p.fixed, p.found} {
		for _, pool := range list {
			if meant(pool) && !slices.Contains(out, pool) {
				out = append(out, pool)
			}
		}
	}
	return out
}

// readPools reads the files that the patterns name. One that cannot be read, or is not
// root's alone to write, is passed over: its pool is then unknown.
func readPools(globs []string) []Pool {
	var out []Pool
	files := 0
	for _, g := range globs {
		names, err := filepath.Glob(g)
		if err != nil {
			continue
		}
		for _, name := range names {
			if files++; files > maxPoolFiles {
				return out
			}
			if b, err := readRootsFile(name); err == nil {
				out = append(out, parsePools(b)...)
			}
		}
	}
	return out
}

func readRootsFile(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // opened for reading
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || !st.Mode().IsRegular() || sys.Uid != 0 || st.Mode().Perm()&0o022 != 0 {
		return nil, errors.New("not a file of root's that only root can write")
	}
	return io.ReadAll(io.LimitReader(f, maxPoolFile))
}

// parsePools reads the sections of a php-fpm file that have a status page.
func parsePools(b []byte) []Pool {
	var out []Pool
	var section, listen, statusListen, statusPath string
	end := func() {
		p := Pool{Name: section, Address: cmp.Or(statusListen, listen), StatusPath: statusPath}
		if section != "" && section != "global" && p.StatusPath != "" && p.Address != "" {
			out = append(out, p)
		}
		listen, statusListen, statusPath = "", "", ""
	}
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if name, ok := strings.CutPrefix(line, "["); ok {
			end()
			section, _, _ = strings.Cut(name, "]")
			section = strings.TrimSpace(section)
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(line, ";") || strings.HasPrefix(line, "#") {
			continue
		}
		value = poolValue(value, section)
		switch strings.TrimSpace(key) {
		case "listen":
			listen = loopbackOf(value)
		case "pm.status_listen":
			statusListen = loopbackOf(value)
		case "pm.status_path":
			statusPath = value
		}
	}
	end()
	return out
}

// poolValue is a value without comment and quotes, $pool filled in.
func poolValue(v, pool string) string {
	v, _, _ = strings.Cut(v, ";")
	v = strings.Trim(strings.TrimSpace(v), `"'`)
	return strings.ReplaceAll(v, "$pool", pool)
}

// loopbackOf makes what php-fpm listens on an address to connect to: "9000" and
// "0.0.0.0:9000" are reached by loopback too.
func loopbackOf(listen string) string {
	if strings.HasPrefix(listen, "/") || listen == "" {
		return listen
	}
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		host, port = "", listen // a port alone
	}
	switch host {
	case "", "0.0.0.0", "*":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	return net.JoinHostPort(host, port)
}
