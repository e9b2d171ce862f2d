package direct

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"osm/tests/lab"
)

// programs are what spammers use. Each connects to $1, port $2, and stays for $3 seconds.
func programs(t *testing.T) []program {
	dir := script(t, spammer, "public_html/wp-content/uploads", "mailer.pl",
		`use IO::Socket::IP; my $s = IO::Socket::IP->new(PeerHost => $ARGV[0], PeerPort => $ARGV[1]) or die "$@"; my $l = <$s>; select undef, undef, undef, $ARGV[2];`)
	script(t, spammer, "public_html/wp-content/uploads", "mailer.py",
		"import socket, sys, time\ns = socket.create_connection((sys.argv[1], int(sys.argv[2])))\ns.recv(100)\ntime.sleep(float(sys.argv[3]))\n")
	script(t, spammer, "public_html/wp-content/uploads", "mailer.php",
		`<?php $h = strpos($argv[1], ":") ? "[$argv[1]]" : $argv[1]; $s = fsockopen("tcp://$h", (int)$argv[2]) or exit(1); fgets($s); usleep((int)($argv[3] * 1e6));`)
	return []program{
		{"perl", dir, dir + "/mailer.pl", func(host, port, stay string) []string {
			return []string{"/usr/bin/perl", "mailer.pl", host, port, stay}
		}},
		{"python", dir, dir + "/mailer.py", func(host, port, stay string) []string {
			return []string{"/usr/bin/python3", "mailer.py", host, port, stay}
		}},
		{"php", dir, dir + "/mailer.php", func(host, port, stay string) []string {
			return []string{"/usr/bin/php", dir + "/mailer.php", host, port, stay}
		}},
		{"a static binary", dir, "", func(host, port, stay string) []string {
			return []string{machine.knock, "-to", net.JoinHostPort(host, port), "-stay", stay + "s"}
		}},
	}
}

type program struct {
	name, dir, script string
	command           func(host, port, stay string) []string
}

func TestEveryProgramsConnectionsAreItsAccounts(t *testing.T) {
	for _, source := range sources() {
		t.Run(source, func(t *testing.T) {
			d := start(t, source, "")
			stay := "0.03"
			if source == "poll" {
				stay = "0.4"
			}
			n := 0
			for _, p := range programs(t) {
				for _, host := range []string{lab.FarIPv4, lab.FarIPv6} {
					for _, port := range []string{"25", "465", "587"} {
						argv := p.command(host, port, stay)
						as(t, spammer, p.dir, argv[0], argv[1:]...)
						n++
						c := wanted(t, d, n)[0]
						if c.Account != spammer || c.UID == nil || *c.UID != machine.UID(spammer) || c.Remote != net.JoinHostPort(host, port) || c.SeenBy != source {
							t.Errorf("%s to %s: %+v, want it to be %s's", p.name, net.JoinHostPort(host, port), c, spammer)
						}
						if c.PID == 0 || c.Directory != p.dir || c.Script != p.script && p.script != "" {
							t.Errorf("%s: process %d, directory %q, script %q (%s), want %q and %q", p.name, c.PID, c.Directory, c.Script, c.Basis, p.dir, p.script)
						}
						if exe, _ := filepath.EvalSymlinks(argv[0]); c.Executable != exe {
							t.Errorf("%s: executable %q, want %q", p.name, c.Executable, exe)
						}
					}
				}
			}
			if all, err := connections(d); err != nil || len(all) != n {
				t.Errorf("%d connections, %v; want the %d that were made", len(all), err, n)
			}
		})
	}
}

// A session of curl's, with STARTTLS, is over within a few milliseconds.
func TestAWholeSessionOfCurl(t *testing.T) {
	for _, source := range []string{"ebpf", "packet"} {
		t.Run(source, func(t *testing.T) {
			d := start(t, source, "")
			dir := script(t, spammer, "tmp", "message", "Subject: pills\r\n\r\nBuy.\r\n")
			before := machine.far.Encrypted.Load()
			as(t, spammer, dir, "/usr/bin/curl", "--silent", "--max-time", "20", "--ssl-reqd", "--insecure", "--url", "smtp://"+lab.FarIPv4+":587",
				"--mail-from", "a@spam.example", "--mail-rcpt", "b@far.example", "--upload-file", "message")
			c := wanted(t, d, 1)[0]
			if machine.far.Encrypted.Load() == before {
				t.Error("it went on without STARTTLS")
			}
			if c.Account != spammer || c.Remote != lab.FarIPv4+":587" || c.PID != 0 && c.Directory != dir {
				t.Errorf("connection %+v, want %s's in %q", c, spammer, dir)
			}
		})
	}
}

func TestRefusedAndBlackHoledDestinations(t *testing.T) {
	d := start(t, "ebpf", "")
	home := machine.HomeOf(spammer)
	for i, tt := range []struct{ to, outcome string }{
		{lab.FarIPv4 + ":2526", ""}, // not a mail port
		{"127.0.0.1:465", "refused"},
		{lab.BlackHole + ":25", "unanswered"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_ = machine.As(ctx, spammer, home, machine.knock, "-to", tt.to, "-stay", "500ms").Run() // it fails: that is the test
		cancel()
		if tt.outcome == "" {
			continue
		}
		c := wanted(t, d, i)[0]
		if c.Account != spammer || c.Remote != tt.to || c.Outcome != tt.outcome || c.PID == 0 {
			t.Errorf("to %s: %+v, want it to be %s's and %s", tt.to, c, spammer, tt.outcome)
		}
	}
}

// By the packet alone it is not known whose a connection was that was refused at once; it is
// seen, and nobody else is blamed.
func TestARefusedConnectionIsSeenByItsPacket(t *testing.T) {
	d := start(t, "packet", "")
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_ = machine.As(ctx, spammer, machine.HomeOf(spammer), machine.knock, "-to", "["+lab.NearIPv6+"]:465").Run() // it fails: that is the test
		cancel()
	}
	for _, c := range wanted(t, d, 20) {
		if c.Remote != "["+lab.NearIPv6+"]:465" || c.Account != spammer && c.Account != "(unknown)" {
			t.Errorf("connection %+v, want %s's or nobody's", c, spammer)
		}
	}
}

// rates are what a short life allows, in percent of 200 connections at 100 a
// second: whose it is, and where its process worked.
var rates = []struct {
	source, stay     string
	whose, directory int
}{
	{"ebpf", "0s", 100, 0}, {"ebpf", "1ms", 100, 90}, {"ebpf", "10ms", 100, 90}, {"ebpf", "100ms", 100, 90},
	{"packet", "1ms", 95, 0}, {"packet", "10ms", 95, 0}, {"packet", "100ms", 95, 0},
}

// atOnceTries is how often a rate may be missed: it is that of a machine with time for it. What
// is wrong is wrong each time.
const atOnceTries = 4

func TestScriptsThatEndAtOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes 2 seconds for each of 7 rows")
	}
	dir := script(t, spammer, "public_html", "x", "")
	for _, r := range rates {
		t.Run(r.source+" "+r.stay, func(t *testing.T) {
			d := start(t, r.source, "")
			const n = 200
			for try := 1; ; try++ {
				as(t, spammer, dir, machine.knock, "-to", lab.FarIPv4+":25", "-n", strconv.Itoa(n), "-rate", "100", "-each", "-stay", r.stay)
				all := wanted(t, d, try*n)
				if len(all) != try*n {
					t.Errorf("%d connections, want %d, each once", len(all), try*n)
				}
				whose, directory := known(t, all[:n], dir) // the newest come first
				load, _ := os.ReadFile("/proc/loadavg")
				t.Logf("%s, alive for %s: whose is known of %d, the directory of %d of %d; load %s", r.source, r.stay, whose, directory, n, strings.Fields(string(load))[0])
				if whose*100 >= r.whose*n && directory*100 >= r.directory*n {
					break
				}
				if r.whose == 100 && whose < n || try == atOnceTries {
					t.Fatalf("known: whose %d, directory %d of %d, want %d %% and %d %%", whose, directory, n, r.whose, r.directory)
				}
			}
		})
	}
}

// known counts the connections that are told to be the spammer's, and to come from dir. Nobody
// else may be blamed, and no other directory.
func known(t *testing.T, all []connection, dir string) (whose, directory int) {
	t.Helper()
	for _, c := range all {
		switch c.Account {
		case spammer:
			whose++
		case "(unknown)":
		default:
			t.Errorf("blamed %s: %+v", c.Account, c)
		}
		switch c.Directory {
		case dir:
			directory++
		case "":
		default:
			t.Errorf("a wrong directory: %+v", c)
		}
	}
	return whose, directory
}

func TestTwoAccountsAreToldApart(t *testing.T) {
	for _, source := range []string{"ebpf", "packet"} {
		t.Run(source, func(t *testing.T) {
			d := start(t, source, "")
			done := make(chan error, 2)
			for i, account := range []string{spammer, neighbour} {
				go func() {
					ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
					defer cancel()
					done <- machine.As(ctx, account, machine.HomeOf(account), machine.knock, "-to", fmt.Sprintf("%s:%d", lab.FarIPv4, []int{25, 587}[i]),
						"-n", "100", "-rate", "100", "-stay", "1ms").Run()
				}()
			}
			for range 2 {
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
			for _, c := range wanted(t, d, 200) {
				want := map[string]string{lab.FarIPv4 + ":25": spammer, lab.FarIPv4 + ":587": neighbour}[c.Remote]
				if c.Account != want && (source == "ebpf" || c.Account != "(unknown)") {
					t.Errorf("a connection to %s is %s's, want %s", c.Remote, c.Account, want)
				}
				if c.Directory != "" && c.Directory != machine.HomeOf(c.Account) {
					t.Errorf("a connection of %s comes from %s", c.Account, c.Directory)
				}
			}
		})
	}
}
