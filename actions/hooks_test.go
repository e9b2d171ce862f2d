package actions

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func TestWhatTheACLsAskIsReadFromTheConfigurationInForce(t *testing.T) {
	const question = "  warn\n    set acl_m_osm = ${readsocket{/run/osm/policy.sock}{osm=1\\n\\n}{1s}{}{osm=down}}\n"
	tests := []struct {
		name, main, acls string
		script, smtp     string // the sockets; "?" where it is not told
	}{
		{"mail by SMTP asks, that of scripts does not", "acl_smtp_data = check\n", "  accept\ncheck:\n" + question + "  accept\n", "", "/run/osm/policy.sock"},
		{"nobody asks", "acl_smtp_data = check\n", "  accept\ncheck:\n  accept\n", "", ""},
		{"no ACL is named", "", "  accept\n", "", ""},
		{"an ACL asks through another that an included file holds", "", "  require\n    acl = theirs arg\n  accept\n.include ETC/ask\n", "/run/osm/policy.sock", ""},
		{"two ACLs that call each other", "acl_smtp_data = check\n", "  require\n    acl = check\n  accept\ncheck:\n  require\n    acl = acl_not_smtp\n  accept\n", "", ""},
		{"a question that is switched off by a macro", "", ".ifdef NEVER\n" + question + ".endif\n  accept\n", "", ""},
		{"a question in a remark", "", "# ${readsocket{/run/osm/policy.sock}{x}}\n  accept\n", "", ""},
		{"an ACL worked out for each message", "acl_smtp_data = ${if eq{1}{1}{check}}\n", "  accept\ncheck:\n" + question + "  accept\n", "", "?"},
		{"an ACL in a file of its own", "acl_smtp_data = ETC/ask\n", "  accept\n", "", "?"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := newTestExim(t, ourTimers)
			x.write("etc/ask", "theirs:\n"+question+"  accept\n")
			x.write("etc/exim4.conf", "acl_not_smtp = acl_not_smtp\n"+x.inEtc(tt.main)+"begin acl\nacl_not_smtp:\n"+x.inEtc(tt.acls))
			got := mustOptions(t, x.executor(x.options()))
			for name, want := range map[string]string{ScriptsAsk: tt.script, SMTPAsks: tt.smtp} {
				socket, told := got[name]
				if !told {
					socket = "?"
				}
				if socket != want {
					t.Errorf("%s: %q, want %q", name, socket, want)
				}
			}
		})
	}
}

func TestABrokenConfigurationIsEximsFaultAndNotTheExecutors(t *testing.T) {
	x := newTestExim(t, "no_such_option = 1\n")
	_, err := x.executor(x.options()).EximOptions(t.Context())
	e, ok := err.(*ExecutorError)
	if !ok || !e.Exim {
		t.Errorf("error %#v, want one of Exim's", err)
	}
	if _, err := NewExecutor(x.path("no.sock")).EximOptions(t.Context()); err.(*ExecutorError).Exim {
		t.Errorf("without an executor: %#v", err)
	}
}

func (x *testExim) write(name, text string) {
	x.t.Helper()
	if err := os.WriteFile(x.path(name), []byte(text), 0o644); err != nil {
		x.t.Fatal(err)
	}
}

// inEtc puts the path of the folder that Exim may include files from into text.
func (x *testExim) inEtc(text string) string {
	return strings.ReplaceAll(text, "ETC", "/etc/exim4")
}

func TestHookAlarms(t *testing.T) {
	const socket = "/run/osm/policy.sock"
	for name, tt := range map[string]struct {
		options map[string]string
		want    []string
	}{
		"both ask":          {map[string]string{"acl_not_smtp": "a", ScriptsAsk: socket, "acl_smtp_data": "b", SMTPAsks: socket}, nil},
		"it cannot be told": {map[string]string{"acl_not_smtp": "/etc/a", "acl_smtp_data": "/etc/b"}, nil},
		"one asks nobody": {map[string]string{"acl_not_smtp": "a", ScriptsAsk: "", "acl_smtp_data": "b", SMTPAsks: socket},
			[]string{"acl_not_smtp = a asks nobody: mail of scripts (PHP mail(), sendmail) is never checked"}},
		"none is set": {map[string]string{ScriptsAsk: "", SMTPAsks: ""}, []string{
			"acl_not_smtp is not set: mail of scripts (PHP mail(), sendmail) is never checked", "acl_smtp_data is not set: mail by SMTP is never checked"}},
	} {
		if got := HookAlarms(tt.options); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
