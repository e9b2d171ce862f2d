package actions

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"osm/policy"
)

// csfRoot is a folder in which the stand-in for csf lives with its files.
type csfRoot struct {
	t   *testing.T
	dir string
}

func newCSF(t *testing.T, switches string) *csfRoot {
	t.Helper()
	c := &csfRoot{t, t.TempDir()}
	program, err := os.ReadFile("../tests/panel/csf/csf")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"etc/csf/csf.allow", "etc/csf/csf.ignore", "etc/csf/csf.deny", "var/lib/csf/csf.tempban"} {
		c.write(f, "")
	}
	c.write("etc/csf/csf.conf", "# csf.conf\nTESTING = \"0\"\nIPV6 = \"1\"\n")
	c.write("csf.standin", switches)
	c.write("usr/sbin/csf", string(program))
	if err := os.Chmod(filepath.Join(c.dir, "usr/sbin/csf"), 0o755); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *csfRoot) write(name, text string) {
	c.t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		c.t.Fatal(err)
	}
}

func (c *csfRoot) read(name string) string {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(c.dir, name))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b)
}

func (c *csfRoot) options() ExecutorOptions {
	o := blockOptions(c.t)
	o.Firewall = FirewallOptions{Kind: "auto", CSF: filepath.Join(c.dir, "usr/sbin/csf"), root: c.dir}
	return o
}

func blockOptions(t *testing.T) ExecutorOptions {
	t.Helper()
	return ExecutorOptions{
		SpoolDir: t.TempDir(), StateDir: filepath.Join(t.TempDir(), "records"), Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Actions: policy.ExecutorActions(), Rates: map[string]int{policy.ActionBlockIP: 1000, policy.ActionBlockDirect: 1000, policy.ActionRunScript: 1000},
	}
}

func blockRequest(ip string, d time.Duration) Change {
	return Change{Action: policy.ActionBlockIP, IP: ip, For: d, Event: 4711, Trigger: "client-ip"}
}

// executorError is the executor's own answer in err.
func executorError(t *testing.T, err error) *ExecutorError {
	t.Helper()
	var e *ExecutorError
	if !errors.As(err, &e) {
		t.Fatalf("error %v, want the executor's answer", err)
	}
	return e
}

func TestOnlyPublicAddressesAreBlocked(t *testing.T) {
	for ip, want := range map[string]string{
		"192.0.2.9": "192.0.2.9", "::ffff:203.0.113.9": "203.0.113.9", "8.8.4.4": "8.8.4.4",
		"2001:DB8:0::9": "2001:db8::9", "2a01:4f8::1": "2a01:4f8::1",
		"": "", "x": "", "192.0.2.9/24": "", "fe80::1%eth0": "", "2001:db8::9%lo": "", "192.0.2.09": "", "-p": "", "192.0.2.9 -p": "",
		"127.0.0.1": "", "::1": "", "::ffff:127.0.0.1": "", "10.1.2.3": "", "172.16.0.1": "", "192.168.1.1": "", "fd00::1": "",
		"169.254.1.1": "", "fe80::1": "", "224.0.0.1": "", "ff02::1": "", "0.0.0.0": "", "::": "", "0.1.2.3": "", "255.255.255.255": "",
		"240.0.0.1": "", "100.64.0.1": "", "100.127.255.255": "", "192.0.0.8": "", "198.19.0.1": "",
		"64:ff9b::a01:203": "", "::7f00:1": "", "100::1": "", "fec0::1": "",
	} {
		c := newCSF(t, "")
		x := executor{o: c.options()}
		change := blockRequest(ip, time.Hour)
		err := x.blockIP().check(t.Context(), &change)
		var r refusal
		if want == "" && !errors.As(err, &r) {
			t.Errorf("check(%q) = %v, want a refusal", ip, err)
		}
		if want != "" && (err != nil || change.IP != want) {
			t.Errorf("check(%q) = %v and %q, want %q", ip, err, change.IP, want)
		}
	}
}

func TestAddressesThatTheOperatorSparesAreNotBlocked(t *testing.T) {
	c := newCSF(t, "")
	c.write("etc/csf/csf.allow", "# who may\n203.0.113.1 # office\n203.0.113.16/28 # more\ntcp|in|d=25|s=203.0.113.40\ntcp:in:s=203.0.113.41:d=25\nInclude /etc/csf/more.allow\n2001:db8:1::/48\n")
	c.write("etc/csf/more.allow", "203.0.113.50\nInclude /etc/csf/yet.more\nInclude /etc/csf/more.allow\nInclude /etc/csf/not.there\n")
	c.write("etc/csf/yet.more", "203.0.113.51#home")
	c.write("etc/csf/csf.ignore", "203.0.113.60\n")
	c.write("etc/csf/csf.dyndns", "admin.example\n203.0.113.70\n")
	c.write("var/lib/csf/csf.tempdyn", "203.0.113.71\n")
	c.write("etc/resolv.conf", "# by hand\nsearch example\nnameserver 203.0.113.80\nnameserver 2001:db8:2::53\n")
	c.write("var/cpanel/cpnat", "10.0.0.5 203.0.113.90\n")
	c.write("run/systemd/sessions/1", "# private\nUID=0\nUSER=root\nREMOTE=1\nREMOTE_HOST=203.0.113.110\n")
	c.write("run/systemd/sessions/2", "UID=5\nUSER=games\nREMOTE_HOST=203.0.113.2\n") // a customer
	c.must(mkfifo(filepath.Join(c.dir, "run/systemd/sessions/1.ref"), 0))
	o := c.options()
	o.Firewall.NeverBlock = []string{"203.0.113.100", "203.0.113.128/26", "2001:db8:3::/64"}
	client := startExecutor(t, o)
	for _, ip := range strings.Fields(`203.0.113.1 ::ffff:203.0.113.1 203.0.113.20 203.0.113.40 203.0.113.41 203.0.113.50 203.0.113.51 203.0.113.60 203.0.113.70
		203.0.113.71 203.0.113.80 203.0.113.90 203.0.113.110 203.0.113.100 203.0.113.130 2001:db8:1::5 2001:db8:2::53 2001:db8:3::9`) {
		_, err := client.Apply(t.Context(), blockRequest(ip, time.Hour))
		if err == nil || !executorError(t, err).Refused {
			t.Errorf("block %s: %v, want a refusal", ip, err)
		}
	}
	if got := c.read("var/lib/csf/csf.tempban") + c.read("etc/csf/csf.deny"); got != "" {
		t.Errorf("csf holds %q after nothing but refusals", got)
	}
	if list, err := client.Records(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("Records = %v, %v after nothing but refusals", list, err)
	}
	if _, err := client.Apply(t.Context(), blockRequest("203.0.113.2", time.Hour)); err != nil {
		t.Errorf("an address beside those of the lists: %v", err)
	}
}

// A list that cannot be read may hold the address: nobody is blocked by it, or by his luck.
func TestAListThatCannotBeReadStopsABlock(t *testing.T) {
	for name, spoil := range map[string]func(c *csfRoot){
		"a folder":           func(c *csfRoot) { c.write("etc/csf/csf.ignore/x", "") },
		"a pipe":             func(c *csfRoot) { c.must(mkfifo(filepath.Join(c.dir, "etc/csf/csf.ignore"), 0)) },
		"too long":           func(c *csfRoot) { c.write("etc/csf/csf.ignore", strings.Repeat("# nothing\n", maxListBytes/10+1)) },
		"a line without end": func(c *csfRoot) { c.write("etc/csf/csf.ignore", strings.Repeat("x", 1<<20)) },
		"too many files": func(c *csfRoot) {
			for i := range 60 {
				c.write(fmt.Sprintf("etc/csf/inc%d", i), fmt.Sprintf("Include /etc/csf/inc%d\n", i+1))
			}
			c.write("etc/csf/csf.ignore", "Include /etc/csf/inc0\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCSF(t, "")
			c.must(os.Remove(filepath.Join(c.dir, "etc/csf/csf.ignore")))
			spoil(c)
			client := startExecutor(t, c.options())
			_, err := client.Apply(t.Context(), blockRequest("203.0.113.2", time.Hour))
			if err == nil || executorError(t, err).Refused || c.read("var/lib/csf/csf.tempban") != "" {
				t.Errorf("block with such a list: %v, csf.tempban %q; want an error that may pass, and no block", err, c.read("var/lib/csf/csf.tempban"))
			}
		})
	}
}

func (c *csfRoot) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func TestWhereThereIsNoFirewallABlockIsRefused(t *testing.T) {
	for _, f := range []FirewallOptions{
		{Kind: "none"}, {Kind: "auto", CSF: "/nonexistent/csf", NFT: "/nonexistent/nft"},
		{Kind: "csf", CSF: "/nonexistent/csf"}, {Kind: "nft", NFT: "/nonexistent/nft"},
	} {
		o := blockOptions(t)
		o.Firewall = f
		_, err := startExecutor(t, o).Apply(t.Context(), blockRequest("203.0.113.2", time.Hour))
		if err == nil || !executorError(t, err).Refused || executorError(t, err).Next == "" {
			t.Errorf("block with %+v: %v, want a refusal that says what to do", f, err)
		}
	}
}

func TestABlockNamesNothingButAnAddress(t *testing.T) {
	c := newCSF(t, "")
	client := startExecutor(t, c.options())
	for _, change := range []Change{{Account: "shop"}, {Mailbox: "a@b.example"}, {Path: "/home"}} {
		change.Action, change.IP = policy.ActionBlockIP, "203.0.113.2"
		if _, err := client.Apply(t.Context(), change); err == nil || !executorError(t, err).Refused {
			t.Errorf("block with %+v: %v, want a refusal", change, err)
		}
	}
}

func TestABlockIsSeenToStandToEndAndToBeLifted(t *testing.T) {
	for _, kind := range []string{"csf", "nft"} {
		t.Run(kind, func(t *testing.T) {
			now := time.Now()
			c := newCSF(t, "")
			o := c.options()
			lift := func() { c.write("var/lib/csf/csf.tempban", ""); c.write("etc/csf/csf.deny", "") }
			if kind == "nft" {
				server := newNetns(t)
				o = nftOptions(t, server)
				lift = func() { server.run("nft", "flush", "ruleset") }
			}
			o.Now = func() time.Time { return now }
			x := startExecutor(t, o)
			timed, forGood := mustApply(t, x, blockRequest("203.0.113.2", time.Hour)), mustApply(t, x, blockRequest("203.0.113.3", 0))
			see := func(r Record, want State) {
				t.Helper()
				got, err := x.Check(t.Context(), r.ID)
				if got.Detail = ""; err != nil || got != want {
					t.Errorf("Check = %+v, %v; want %+v", got, err, want)
				}
			}
			see(timed, State{InForce: Yes, PasswordChanged: Unknown})
			see(forGood, State{InForce: Yes, PasswordChanged: Unknown})
			lift()
			see(timed, State{InForce: No, ByOthers: true, PasswordChanged: Unknown})
			see(forGood, State{InForce: No, ByOthers: true, PasswordChanged: Unknown})
			now = now.Add(2 * time.Hour)
			see(timed, State{InForce: No, PasswordChanged: Unknown})
		})
	}
}

// FuzzNames: an entry that is found holds the address, and stands in the line.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"203.0.113.1 # x", "203.0.113.0/24", "tcp|in|d=25|s=203.0.113.1", "tcp:in:s=203.0.113.1:d=25", "::ffff:203.0.113.0/120", "nameserver 203.0.113.1"} {
		f.Add(s, "203.0.113.1")
	}
	f.Fuzz(func(t *testing.T, line, ip string) {
		addr, err := netip.ParseAddr(ip)
		if err != nil {
			return
		}
		addr = addr.WithZone("").Unmap()
		if p, ok := names(line, addr); ok && !p.Contains(addr) {
			t.Fatalf("names(%q, %s) = %s", line, addr, p)
		}
		if _, ok := names(addr.String()+" # "+line, addr); !ok {
			t.Fatalf("%s is not found in its own line", addr)
		}
	})
}
