package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/BurntSushi/toml"
	"golang.org/x/sys/unix"
)

// ExecutorConfig is what the part that runs as root goes by. It comes from a file of
// root's alone: nothing that the daemon, the database or a request says reaches it.
type ExecutorConfig struct {
	PeerUser      string // who may ask besides root
	EximUser      string // who owns the files of Exim's spool
	EximBinary    string
	EximSpool     string
	DeliverPrefix []string // put before the program for deliveries; empty: systemd-run under systemd, else nothing
	CommandLimit  time.Duration
	DeliverLimit  time.Duration
	DeliverGrace  time.Duration
	DeliverAtOnce int64
	IDsPerSecond  int64
	MaxConns      int64
}

// DefaultExecutor is what holds where there is no file.
func DefaultExecutor() ExecutorConfig {
	d := Default()
	return ExecutorConfig{
		PeerUser: d.Server.User, EximUser: d.Exim.User, EximBinary: d.Exim.Binary, EximSpool: d.Exim.Spool,
		CommandLimit: 30 * time.Second, DeliverLimit: 30 * time.Minute, DeliverGrace: 5 * time.Second,
		DeliverAtOnce: 4, IDsPerSecond: 200, MaxConns: 16,
	}
}

func executorKeys() []key[ExecutorConfig] {
	type E = ExecutorConfig
	const user = `must be a user name: letters, digits, "_", "-" and "."`
	return []key[E]{
		text("peer_user", user, func(e *E) *string { return &e.PeerUser }, isUser),
		text("exim_user", user, func(e *E) *string { return &e.EximUser }, isUser),
		path("exim_binary", func(e *E) *string { return &e.EximBinary }),
		path("exim_spool", func(e *E) *string { return &e.EximSpool }),
		ranged(names("deliver_prefix", `must be a list of words, a program's absolute path first, such as ["/usr/bin/systemd-run", "--quiet", "--collect", "--wait", "--"]`,
			func(e *E) *[]string { return &e.DeliverPrefix }, isName),
			func(e *E) bool {
				return len(e.DeliverPrefix) == 0 || (len(e.DeliverPrefix) <= 16 && isPath(e.DeliverPrefix[0]))
			}),
		duration("command_limit", func(e *E) *time.Duration { return &e.CommandLimit }, time.Second, 10*time.Minute, "30s"),
		duration("deliver_limit", func(e *E) *time.Duration { return &e.DeliverLimit }, time.Minute, 24*time.Hour, "30m"),
		duration("deliver_grace", func(e *E) *time.Duration { return &e.DeliverGrace }, time.Second, 5*time.Minute, "5s"),
		number("deliver_at_once", func(e *E) *int64 { return &e.DeliverAtOnce }, 1, 64),
		number("ids_per_second", func(e *E) *int64 { return &e.IDsPerSecond }, 1, 10_000),
		number("max_connections", func(e *E) *int64 { return &e.MaxConns }, 1, 256),
	}
}

// LoadExecutor reads the root part's file. A missing file means the defaults. A file
// that another user than root (or the user who runs this) owns, that its group or
// others may write, or that is not a plain file, is refused: whoever can change it can
// make root run a program.
func LoadExecutor(path string) (ExecutorConfig, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return DefaultExecutor(), nil
	}
	if err != nil {
		return ExecutorConfig{}, fmt.Errorf("read executor configuration: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return ExecutorConfig{}, fmt.Errorf("read executor configuration: %w", err)
	}
	owner := st.Sys().(*syscall.Stat_t).Uid
	if why := untrusted(st.Mode(), owner, uint32(os.Geteuid())); why != "" {
		return ExecutorConfig{}, fmt.Errorf("executor configuration %q %s: make it root's with mode 0644 or 0600", path, why)
	}
	data, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return ExecutorConfig{}, fmt.Errorf("read executor configuration: %w", err)
	}
	return ParseExecutor(data, path)
}

// untrusted says why a file must not be believed, "" if it may.
func untrusted(mode fs.FileMode, owner, self uint32) string {
	switch {
	case !mode.IsRegular():
		return "is not a plain file"
	case owner != 0 && owner != self:
		return fmt.Sprintf("belongs to uid %d", owner)
	case mode.Perm()&0o022 != 0:
		return fmt.Sprintf("may be written by others (mode %04o)", mode.Perm())
	}
	return ""
}

// ParseExecutor reads the root part's settings from data. The error is a [Mistakes].
func ParseExecutor(data []byte, path string) (ExecutorConfig, error) {
	e, tree := DefaultExecutor(), map[string]any{}
	if _, err := toml.NewDecoder(bytes.NewReader(data)).Decode(&tree); err != nil {
		return ExecutorConfig{}, Mistakes{syntaxMistake(err, path)}
	}
	r := reader{loc: time.UTC}
	fill(&r, &e, executorKeys(), "", "executor", tree)
	found := append(r.mistakes, invalid(&e, executorKeys(), "", "executor")...)
	lines := Config{lines: lineIndex(string(data))}
	for i := range found {
		at := found[i].at
		found[i].File, found[i].Line = path, lines.lineOf(at[1:]) // fill joins with a dot
	}
	found.sort()
	if err := found.orNil(); err != nil {
		return ExecutorConfig{}, err
	}
	return e, nil
}
