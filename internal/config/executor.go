package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/BurntSushi/toml"
	"golang.org/x/sys/unix"

	"osm/policy"
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

	Actions       []string // that the executor may do at all
	StateDir      string
	ChangeLimit   time.Duration
	CommandPrefix []string // before commands of panel and firewall; empty: as DeliverPrefix
	MinUID        int64
	Protected     []string
	RenameAny     bool
	Panel         string // auto, cpanel, commands or none
	WHMAPI1       string
	UAPI          string
	Doveadm       string
	Firewall      string // auto, csf, nft or none
	CSF           string
	NFT           string
	NeverBlock    []string                // addresses and networks
	Rates         map[string]int64        // by action, an hour
	Commands      map[string]PanelCommand // by action, for panel = "commands"
	Scripts       map[string]Script       // by name, what run-script may run
}

// PanelCommand is how an action is done, undone and looked at where no panel is known.
type PanelCommand struct{ Do, Undo, Check []string }

// Script is one of the operator's own programs.
type Script struct {
	Name        string
	Command     []string
	User        string
	File        bool
	TimeLimit   time.Duration
	OutputLimit int64
}

// DefaultExecutor is what holds where there is no file.
func DefaultExecutor() ExecutorConfig {
	d := Default()
	return ExecutorConfig{
		PeerUser: d.Server.User, EximUser: d.Exim.User, EximBinary: d.Exim.Binary, EximSpool: d.Exim.Spool,
		CommandLimit: 30 * time.Second, DeliverLimit: 30 * time.Minute, DeliverGrace: 5 * time.Second,
		DeliverAtOnce: 4, IDsPerSecond: 200, MaxConns: 16,
		Actions: policy.ExecutorActions(), StateDir: "/var/lib/osm-executor", ChangeLimit: 2 * time.Minute, MinUID: d.Accounts.MinUID,
		Panel: "auto", WHMAPI1: "/usr/local/cpanel/bin/whmapi1", UAPI: "/usr/local/cpanel/bin/uapi", Doveadm: "/usr/bin/doveadm",
		Firewall: "auto", CSF: "/usr/sbin/csf", NFT: "/usr/sbin/nft",
		Rates: map[string]int64{
			policy.ActionSuspendAccount: 10, policy.ActionBlockLogin: 60, policy.ActionPanelHold: 60,
			policy.ActionRenamePath: 30, policy.ActionRenameScript: 30, policy.ActionBlockIP: 120, policy.ActionBlockDirect: 60,
			policy.ActionRunScript: 600,
		},
		Commands: map[string]PanelCommand{}, Scripts: map[string]Script{},
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
		argv("deliver_prefix", func(e *E) *[]string { return &e.DeliverPrefix }),
		duration("command_limit", func(e *E) *time.Duration { return &e.CommandLimit }, time.Second, 10*time.Minute, "30s"),
		duration("deliver_limit", func(e *E) *time.Duration { return &e.DeliverLimit }, time.Minute, 24*time.Hour, "30m"),
		duration("deliver_grace", func(e *E) *time.Duration { return &e.DeliverGrace }, time.Second, 5*time.Minute, "5s"),
		number("deliver_at_once", func(e *E) *int64 { return &e.DeliverAtOnce }, 1, 64),
		number("ids_per_second", func(e *E) *int64 { return &e.IDsPerSecond }, 1, 10_000),
		number("max_connections", func(e *E) *int64 { return &e.MaxConns }, 1, 256),
		names("actions", "must be a list of "+strings.Join(policy.ExecutorActions(), ", "), func(e *E) *[]string { return &e.Actions }, isExecutorAction),
		path("state_dir", func(e *E) *string { return &e.StateDir }),
		duration("change_limit", func(e *E) *time.Duration { return &e.ChangeLimit }, time.Second, 10*time.Minute, "2m"),
		argv("command_prefix", func(e *E) *[]string { return &e.CommandPrefix }),
		number("min_uid", func(e *E) *int64 { return &e.MinUID }, 1, 1<<32-3),
		names("protected_accounts", "must be a list of account names", func(e *E) *[]string { return &e.Protected }, isUser),
		boolean("rename_any", func(e *E) *bool { return &e.RenameAny }),
		choice("panel", func(e *E) *string { return &e.Panel }, "auto", "cpanel", "commands", "none"),
		path("whmapi1", func(e *E) *string { return &e.WHMAPI1 }),
		path("uapi", func(e *E) *string { return &e.UAPI }),
		path("doveadm", func(e *E) *string { return &e.Doveadm }),
		choice("firewall", func(e *E) *string { return &e.Firewall }, "auto", "csf", "nft", "none"),
		path("csf", func(e *E) *string { return &e.CSF }),
		path("nft", func(e *E) *string { return &e.NFT }),
		names("never_block", `must be a list of addresses and networks, such as ["192.0.2.0/24"]`, func(e *E) *[]string { return &e.NeverBlock }, isNetwork),
	}
}

// argv is a list of words that begins with a program's absolute path, or nothing.
func argv[T any](name string, p func(*T) *[]string) key[T] {
	return ranged(names(name, `must be a list of words, a program's absolute path first, such as ["/usr/bin/systemd-run", "--quiet", "--collect", "--wait", "--"]`, p, isName),
		func(t *T) bool { return len(*p(t)) == 0 || (len(*p(t)) <= 32 && isPath((*p(t))[0])) })
}

func isExecutorAction(s string) bool { return slices.Contains(policy.ExecutorActions(), s) }

func isNetwork(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	_, err := netip.ParsePrefix(s)
	return err == nil
}

func commandKeys() []key[PanelCommand] {
	type C = PanelCommand
	return []key[C]{
		argv("do", func(c *C) *[]string { return &c.Do }),
		argv("undo", func(c *C) *[]string { return &c.Undo }),
		argv("check", func(c *C) *[]string { return &c.Check }),
	}
}

func scriptKeys() []key[Script] {
	type S = Script
	return []key[S]{
		text("name", "must be 1 to 64 letters, digits, \"-\" and \"_\"", func(s *S) *string { return &s.Name }, isScriptName),
		argv("command", func(s *S) *[]string { return &s.Command }),
		text("user", `must be a user name`, func(s *S) *string { return &s.User }, isUser),
		boolean("file", func(s *S) *bool { return &s.File }),
		duration("time_limit", func(s *S) *time.Duration { return &s.TimeLimit }, time.Second, 10*time.Minute, "30s"),
		number("output_limit", func(s *S) *int64 { return &s.OutputLimit }, 1, 1<<20),
	}
}

func isScriptName(s string) bool { return policy.ValidScriptName(s) }

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
	r.executorTables(&e, tree)
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

// executorTables reads [rates], [command.ACTION] and [[script]], and takes them out of the
// tree.
func (r *reader) executorTables(e *ExecutorConfig, tree map[string]any) {
	rates := map[string]any{}
	r.table(tree, "rates", &rates)
	for _, action := range slices.Sorted(maps.Keys(rates)) {
		n, ok := whole(rates[action])
		switch {
		case !isExecutorAction(action):
			r.unknown(".rates."+action, "executor: rates.", action, policy.ExecutorActions())
		case !ok || n < 0 || n > 100_000:
			r.wrong(".rates."+action, "executor: rates."+action, rates[action], "must be a whole number from 0 to 100000: so many an hour")
		default:
			e.Rates[action] = n
		}
	}
	commands := map[string]any{}
	r.table(tree, "command", &commands)
	for _, action := range slices.Sorted(maps.Keys(commands)) {
		table, _ := commands[action].(map[string]any)
		var c PanelCommand
		if !slices.Contains(policy.PanelActions(), action) {
			r.unknown(".command."+action, "executor: command.", action, policy.PanelActions())
			continue
		}
		fillPart(r, &c, commandKeys(), ".command."+action, "executor: command."+action, table)
		if len(c.Do) == 0 || len(c.Undo) == 0 || len(c.Check) == 0 {
			r.wrong(".command."+action, "executor: command."+action, nil, "needs do, undo and check")
		}
		e.Commands[action] = c
	}
	r.scripts(e, tree)
}

func (r *reader) scripts(e *ExecutorConfig, tree map[string]any) {
	scripts, has := tree["script"]
	delete(tree, "script")
	if !has {
		return
	}
	r.tablesOf("script", scripts, func(at string, _ int, table map[string]any) {
		s := Script{User: "nobody", TimeLimit: 30 * time.Second, OutputLimit: 64 << 10}
		fillPart(r, &s, scriptKeys(), "."+at, "executor: script", table)
		switch _, twice := e.Scripts[s.Name]; {
		case s.Name == "" || len(s.Command) == 0:
			r.wrong("."+at, "executor: script", nil, "needs name and command")
		case twice:
			r.wrong("."+at+".name", "executor: script", s.Name, "is named twice")
		}
		e.Scripts[s.Name] = s
	})
}

// table takes the table of this name out of the tree.
func (r *reader) table(tree map[string]any, name string, out *map[string]any) {
	v, has := tree[name]
	delete(tree, name)
	if !has {
		return
	}
	t, ok := v.(map[string]any)
	if !ok {
		r.wrong("."+name, "executor: "+name, v, fmt.Sprintf("must be a table: write [%s], its keys below", name))
		return
	}
	*out = t
}

// fillPart reads the keys of one table and checks their values.
func fillPart[T any](r *reader, t *T, keys []key[T], at, label string, table map[string]any) {
	fill(r, t, keys, at, label, table)
	r.mistakes = append(r.mistakes, invalid(t, keys, at, label)...)
}
