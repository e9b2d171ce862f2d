package actions

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func (p *testPanel) blockLogin(t *testing.T, client *Executor) Record {
	t.Helper()
	r, err := client.Apply(t.Context(), panelVerbs()[3].change)
	if err != nil {
		t.Fatalf("Apply: %v", err)
	}
	return r
}

// How cPanel hides a blocked mailbox's password, and what becomes of the block when it is
// changed, is not documented: each way must come out right.
func TestANewPasswordOfABlockedMailboxIsNoticed(t *testing.T) {
	newPassword := func(p *testPanel) {
		p.Run("uapi", "--user="+panelShop, "Email", "passwd_pop", "email=info", "domain=shop.example", "password=new%20one")
	}
	others := func(p *testPanel) {
		p.Run("uapi", "--user="+panelShop, "Email", "passwd_pop", "email=xinfo", "domain=shop.example", "password=new%20one")
	}
	for _, row := range []struct {
		name, faults string
		since        func(p *testPanel)
		in, changed  Known
	}{
		{"nothing happened", "", func(*testPanel) {}, Yes, No},
		{"another mailbox's password", "", others, Yes, No},
		{"a new password", "", newPassword, Yes, Yes},
		{"a new password that ends the block", "unlocks", newPassword, No, Yes},
		{"the hash is elsewhere while blocked", "keeps-stash", func(*testPanel) {}, Yes, Unknown},
		{"the hash was elsewhere, and there is a new one", "keeps-stash\nunlocks", newPassword, No, Yes},
		{"the hash is left as it is", "unmarked", func(*testPanel) {}, Yes, No},
		{"the hash is left as it is, and a new one", "unmarked", newPassword, Yes, Yes},
		{"the block is seen by the mark alone", "no-login-field", func(*testPanel) {}, Yes, No},
		{"nothing shows the block", "no-login-field\nunmarked", newPassword, Unknown, Yes},
		{"the file is gone", "", func(p *testPanel) { os.Remove(p.Path(filepath.Dir(p.Shadow(panelShop, "shop.example")))) }, Yes, No},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			p := newTestPanel(t)
			before := p.Everything()
			p.Fault(strings.Split(row.faults, "\n")...)
			client := p.client(t)
			r := p.blockLogin(t, client)
			row.since(p)
			if s, err := client.Check(t.Context(), r.ID); err != nil || s.InForce != row.in || s.PasswordChanged != row.changed {
				t.Errorf("Check = %+v, %v; want in force %s, password changed %s", s, err, row.in, row.changed)
			}
			if _, err := client.Undo(t.Context(), r.ID); err != nil {
				t.Errorf("Undo: %v", err)
			}
			after := p.Everything()
			if row.changed != Yes && !strings.Contains(row.name, "password") && after != before {
				t.Errorf("not as before:\n%s\nwas:\n%s", after, before)
			}
			if now := p.Read(p.Shadow(panelShop, "shop.example")); strings.Contains(now, "info:!!") || p.blockedAside() {
				t.Errorf("still blocked: %s", now)
			}
		})
	}
}

// The next step of a ladder suspends the whole account.
func TestABlockIsNotTakenForLiftedWhileTheAccountIsSuspended(t *testing.T) {
	p := newTestPanel(t)
	before := p.Everything()
	client := p.client(t)
	block := p.blockLogin(t, client)
	suspension, err := client.Apply(t.Context(), panelVerbs()[0].change)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := client.Check(t.Context(), block.ID); err == nil || !strings.Contains(err.Error(), "suspended since") {
		t.Errorf("Check = %+v, %v; want it said that nothing can be seen", s, err)
	}
	if _, err := client.Undo(t.Context(), block.ID); err == nil {
		t.Error("Undo said that the block is lifted")
	}
	for _, id := range []string{suspension.ID, block.ID} {
		if _, err := client.Undo(t.Context(), id); err != nil {
			t.Errorf("Undo: %v", err)
		}
	}
	if after := p.Everything(); after != before {
		t.Errorf("not as before:\n%s\nwas:\n%s", after, before)
	}
}

func TestTheFingerprintOfAPasswordTellsNothingWithoutItsKey(t *testing.T) {
	p := newTestPanel(t)
	client := p.client(t)
	r := p.blockLogin(t, client)
	key, err := os.ReadFile(filepath.Join(p.o.StateDir, "fingerprint.key"))
	if err != nil || len(key) != 32 {
		t.Fatalf("key: %d bytes, %v", len(key), err)
	}
	st, err := os.Stat(filepath.Join(p.o.StateDir, "fingerprint.key"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode of the key: %v, %v", st.Mode(), err)
	}
	for k, v := range r.State {
		if strings.Contains(v, "hash") || strings.Contains(v, "$6$") || strings.Contains(v, string(key)) {
			t.Errorf("the record's %s is %q", k, v)
		}
	}
	same := records{t.TempDir()}
	if err := os.Chmod(same.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if f, err := same.fingerprint(panelInfo, "$6$salt$infohash"); err != nil || f == r.State[statePassword] {
		t.Errorf("with another key the fingerprint is %q, %v: the same", f, err)
	}
}

// The file of passwords lies in the account's home: its owner may put what he likes there.
func TestNoLinkOfTheAccountsIsFollowedToAPassword(t *testing.T) {
	for _, row := range []struct {
		name string
		put  func(p *testPanel, shadow, dir, outside string) error
	}{
		{"a symlink to a file", func(_ *testPanel, shadow, _, outside string) error {
			return replace(shadow, func() error { return os.Symlink(outside, shadow) })
		}},
		{"a hard link to a file", func(_ *testPanel, shadow, _, outside string) error {
			return replace(shadow, func() error { return os.Link(outside, shadow) })
		}},
		{"a symlink to a folder", func(_ *testPanel, _, dir, outside string) error {
			return replace(dir, func() error { return os.Symlink(filepath.Dir(outside), dir) })
		}},
		{"a pipe", func(_ *testPanel, shadow, _, _ string) error {
			return replace(shadow, func() error { return unix.Mkfifo(shadow, 0o644) })
		}},
		{"another user's file", func(_ *testPanel, shadow, _, _ string) error { return os.Chown(shadow, 1, -1) }},
		{"a folder", func(_ *testPanel, shadow, _, _ string) error {
			return replace(shadow, func() error { return os.Mkdir(shadow, 0o755) })
		}},
		{"nothing", func(_ *testPanel, shadow, _, _ string) error { return os.Remove(shadow) }},
		{"an endless line", func(_ *testPanel, shadow, _, _ string) error {
			return os.WriteFile(shadow, []byte(strings.Repeat("x", 1<<20)), 0o640)
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := newTestPanel(t)
			shadow := p.Path(p.Shadow(panelShop, "shop.example"))
			outside := filepath.Join(t.TempDir(), "shadow") // on the same file system, for the hard link
			if err := os.WriteFile(outside, []byte("info:$6$outside:1::::::\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			x := &executor{o: p.o}
			a, err := x.account(panelShop)
			if err != nil {
				t.Fatal(err)
			}
			if hash, _, err := (panel{x}).passwordHash(a, panelInfo); err != nil || hash != "$6$salt$infohash" {
				t.Fatalf("before: %q, %v", hash, err)
			}
			if err := row.put(p, shadow, filepath.Dir(shadow), outside); err != nil {
				t.Fatal(err)
			}
			if hash, _, err := (panel{x}).passwordHash(a, panelInfo); err == nil {
				t.Errorf("read %q through it", hash)
			}
		})
	}
}

func replace(path string, f func() error) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return f()
}

func TestOpenSessionsAreEndedWithTheLogin(t *testing.T) {
	for _, row := range []struct{ name, program, outcome string }{
		{"doveadm ends them", "echo \"$@\" >>$STANDIN_ROOT/run/kicked; echo kicked connections", "open sessions were ended: kicked connections"},
		{"nobody was connected", "echo no users kicked; exit 68", "no session was open"},
		{"doveadm fails", "echo 'Fatal: connect(/run/dovecot/anvil)\nfailed' >&2; exit 75", "open sessions may go on: "},
		{"doveadm hangs", "exec sleep 600", "killed after 3s"},
		{"there is no doveadm", "", "open sessions go on, as there is no /"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			p := newTestPanel(t)
			if strings.Contains(row.program, "sleep") { // the stand-ins must keep to it, too
				p.o.CommandLimit = 3 * time.Second
			}
			p.o.Panel.Doveadm = filepath.Join(t.TempDir(), "doveadm")
			if row.program != "" {
				if err := os.WriteFile(p.o.Panel.Doveadm, []byte("#!/bin/sh\n"+row.program+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			client := p.client(t)
			r := p.blockLogin(t, client)
			if !r.Done || !strings.Contains(r.Outcome, row.outcome) || strings.Contains(r.Outcome, "\n") {
				t.Errorf("outcome %q, want %q in it", r.Outcome, row.outcome)
			}
			if strings.HasPrefix(row.program, "echo \"") && p.Read("run/kicked") != "kick "+panelInfo+"\n" {
				t.Errorf("doveadm was called with %q", p.Read("run/kicked"))
			}
		})
	}
}
