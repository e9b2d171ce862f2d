package actions

import (
	"context"
	"regexp"
	"slices"
	"strings"
)

// Names under which exim-options tells, beside Exim's own settings, on which socket the
// ACLs that see outgoing mail really ask; "" where they ask nobody. A name is left out
// where it cannot be told, such as for an ACL in a file of its own.
const (
	ScriptsAsk = "acl_not_smtp asks"
	SMTPAsks   = "acl_smtp_data asks"
)

// HookAlarms says which outgoing mail Exim does not ask about. options is what
// [Executor.EximOptions] returned.
func HookAlarms(options map[string]string) []string {
	var alarms []string
	for _, hook := range []struct{ option, asks, what string }{
		{"acl_not_smtp", ScriptsAsk, "mail of scripts (PHP mail(), sendmail)"},
		{"acl_smtp_data", SMTPAsks, "mail by SMTP"},
	} {
		acl := options[hook.option]
		socket, told := options[hook.asks]
		switch {
		case acl == "":
			alarms = append(alarms, hook.option+" is not set: "+hook.what+" is never checked")
		case told && socket == "":
			alarms = append(alarms, hook.option+" = "+acl+" asks nobody: "+hook.what+" is never checked")
		}
	}
	return alarms
}

// maxConfig bounds Exim's configuration as it prints it.
const maxConfig = 4 << 20

// asks adds what the ACLs ask to the options that name them. Exim prints the
// configuration that it uses, included files in place and macros put in; it may hold
// passwords, so nothing else of it leaves this function.
func (x *executor) asks(ctx context.Context, options map[string]string) {
	cmd := x.exim
	cmd.output = maxConfig
	text, err := cmd.run(ctx, "-bP", "config")
	if err != nil {
		x.o.Log.Warn("exim does not print its configuration: whether its ACLs ask is not known", "err", err)
		return
	}
	acls := parseACLs(text)
	for name, option := range map[string]string{ScriptsAsk: "acl_not_smtp", SMTPAsks: "acl_smtp_data"} {
		acl := options[option]
		if acl != "" && acls[acl] == nil {
			continue // a file, or worked out for each message
		}
		options[name] = acls.asks(acl, map[string]bool{})
	}
}

// acl is what of an ACL matters here.
type acl struct {
	asks  string   // the socket of its first ${readsocket}
	calls []string // other ACLs
}

type acls map[string]*acl

var (
	reACLName    = regexp.MustCompile(`^\s*([A-Za-z0-9_.-]+):\s*$`)
	reReadsocket = regexp.MustCompile(`\$\{readsocket\{([^{}]*)\}`)
	reACLCall    = regexp.MustCompile(`\bacl\s*=\s*([A-Za-z0-9_.-]+)`)
)

// parseACLs reads the ACLs of a configuration as Exim prints it: one condition in a line.
func parseACLs(config string) acls {
	all, now := acls{}, (*acl)(nil)
	section := ""
	for line := range strings.Lines(config) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "begin "); ok {
			section, now = strings.TrimSpace(name), nil
			continue
		}
		if section != "acl" || strings.HasPrefix(line, "#") {
			continue
		}
		if m := reACLName.FindStringSubmatch(line); m != nil {
			now = &acl{}
			all[m[1]] = now
			continue
		}
		if now == nil {
			continue
		}
		if m := reReadsocket.FindStringSubmatch(line); m != nil && now.asks == "" {
			now.asks = m[1]
		}
		for _, m := range reACLCall.FindAllStringSubmatch(line, -1) {
			if !slices.Contains(now.calls, m[1]) {
				now.calls = append(now.calls, m[1])
			}
		}
	}
	return all
}

// asks is the socket on which an ACL asks, or one that it calls.
func (a acls) asks(name string, seen map[string]bool) string {
	one := a[name]
	if one == nil || seen[name] {
		return ""
	}
	seen[name] = true
	if one.asks != "" {
		return one.asks
	}
	for _, call := range one.calls {
		if socket := a.asks(call, seen); socket != "" {
			return socket
		}
	}
	return ""
}
