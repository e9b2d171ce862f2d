package eximacl

import (
	_ "embed" // the texts below
	"strconv"
	"strings"
)

//go:embed osm.acl.in
var aclTemplate string

//go:embed debian/policy.acl.in
var policyFileTemplate string

//go:embed debian/first.in
var firstTemplate string

//go:embed debian/last.in
var lastTemplate string

//go:embed debian/router.in
var routerTemplate string

// Defaults of [ACLParams].
const (
	DefaultSocket = "/run/osm/policy.sock"
	// DefaultTimeout is whole seconds with the unit: anything else means no timeout at
	// all to ${readsocket}.
	DefaultTimeout = "1s"
)

// ACLParams is what differs between two installations of the ACL text.
type ACLParams struct {
	Socket     string // "" = DefaultSocket
	Timeout    string // "" = DefaultTimeout
	EximUID    uint32 // Exim's run-time user, whose bounces are not asked about
	FailClosed bool   // without an answer SMTP clients get a defer; script mail passes
	CPanel     bool   // cPanel's variables: what it found out, and which mail goes out
}

// relayedHosts tells which remote hosts without a login are asked about.
const relayedHosts = "${if match_ip{$sender_host_address}{+relay_from_hosts}}"

// relayedCPanel is the same for cPanel. Its ACL notes that a recipient outside was named,
// even where it then refused that one: so one must be among those that were taken.
//
//go:embed cpanel/relayed.in
var relayedCPanel string

// cpanelFields are the names that only cPanel's ACL can send. The variables are
// guarded: with strict_acl_vars an unset one would fail the whole question.
//
//go:embed cpanel/fields.in
var cpanelFields string

func (p ACLParams) values() map[string]string {
	v := map[string]string{
		"SOCKET":     p.Socket,
		"TIMEOUT":    p.Timeout,
		"EXIMUID":    strconv.FormatUint(uint64(p.EximUID), 10),
		"FAILCLOSED": "no",
		"RELAYED":    relayedHosts,
		"PANEL":      "",
	}
	if p.Socket == "" {
		v["SOCKET"] = DefaultSocket
	}
	if p.Timeout == "" {
		v["TIMEOUT"] = DefaultTimeout
	}
	if p.FailClosed {
		v["FAILCLOSED"] = "yes"
	}
	if p.CPanel {
		v["RELAYED"], v["PANEL"] = strings.TrimSpace(relayedCPanel), strings.TrimSuffix(cpanelFields, "\n")
	}
	return v
}

// ACLText is the text that asks, for the end of acl_smtp_data and of acl_not_smtp
// alike. It ends no ACL: what is accepted, frozen or unavailable falls through.
func ACLText(p ACLParams) string { return fill(aclTemplate, p.values()) }

// Fragment is one piece of Exim's configuration on Debian.
type Fragment struct {
	Path string
	Text string
	// Block: Text is a part of the file that stands in it between its own first and
	// last line; otherwise it is the whole file.
	Block bool
}

// DebianParams is what differs between two installations on Debian's Exim.
type DebianParams struct {
	ACLParams
	Frozen      string // MAIN_TIMEOUT_FROZEN_AFTER; "" where the operator set it himself
	Bounces     string // MAIN_IGNORE_BOUNCE_ERRORS_AFTER; the same
	LogSelector string // the stock MAIN_LOG_SELECTOR; the same
	// ScriptACL is the value that acl_not_smtp had; "" if none. It is run first, or
	// last (ScriptLast) where it says discard, which is allowed only there.
	ScriptACL  string
	ScriptLast bool
	// LocalLast: the file of CHECK_DATA_LOCAL_ACL_FILE says discard: it is run last.
	LocalLast bool
}

// PolicyFile is where the ACL text lies on Debian.
const PolicyFile = "/etc/exim4/osm/policy.acl"

// Fragments are the pieces that install.sh puts into Debian's configuration: all are
// there whether or not it is split, so that dpkg-reconfigure may change that.
func Fragments(p DebianParams) []Fragment {
	text := strings.TrimSuffix(ACLText(p.ACLParams), "\n")
	v := map[string]string{
		"TEXT": text, "ACLFILE": PolicyFile, "ROUTER": "yes",
		"FROZEN": p.Frozen, "BOUNCES": p.Bounces, "LOGSELECTOR": p.LogSelector,
		"SCRIPTACL": p.ScriptACL, "SCRIPTLAST": yes(p.ScriptLast), "LOCALLAST": yes(p.LocalLast),
	}
	split := []Fragment{
		{Path: PolicyFile, Text: fill(policyFileTemplate, v)},
		{Path: "/etc/exim4/conf.d/main/00_zzz_osm_policy", Text: fill(firstTemplate, v)},
		{Path: "/etc/exim4/conf.d/main/zzz_osm_policy", Text: fill(lastTemplate, v)},
		{Path: "/etc/exim4/conf.d/router/050_osm_discard", Text: fill(routerTemplate, v)},
	}
	v["ROUTER"] = "" // no router can be added there
	return append(split, Fragment{
		Path:  "/etc/exim4/exim4.conf.localmacros",
		Text:  fill(firstTemplate, v) + fill(lastTemplate, v),
		Block: true,
	})
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

// fill puts values into a template. @NAME@ stands for a value; a line that begins with
// @NAME: is left out where the value is empty. install.sh does the same with awk.
func fill(template string, values map[string]string) string {
	var out strings.Builder
	for line := range strings.Lines(template) {
		if rest, ok := strings.CutPrefix(line, "@"); ok {
			name, text, ok := strings.Cut(rest, ":")
			if ok && strings.IndexFunc(name, notUpper) < 0 {
				if values[name] == "" {
					continue
				}
				line = text
			}
		}
		for name, value := range values {
			if strings.Contains(line, "@"+name+"@") {
				line = strings.ReplaceAll(line, "@"+name+"@", value)
				break // one placeholder a line: a value is never searched for others
			}
		}
		out.WriteString(line)
	}
	return out.String()
}

func notUpper(r rune) bool { return r < 'A' || r > 'Z' }
