package direct

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"osm/tests/lab"
)

// programs are what spammers use. Each connects to $1, port $2, and stays until its standard
// input ends.
func programs(t *testing.T) []program {
	dir := script(t, spammer, "public_html/wp-content/uploads", "mailer.pl",
		`use IO::Socket::IP; my $s = IO::Socket::IP->new(PeerHost => $ARGV[0], PeerPort => $ARGV[1]) or die "$@"; my $l = <$s>; <STDIN>;`)
	script(t, spammer, "public_html/wp-content/uploads", "mailer.py",
		"import socket, sys\ns = socket.create_connection((sys.argv[1], int(sys.argv[2])))\ns.recv(100)\nsys.stdin.read()\n")
	script(t, spammer, "public_html/wp-content/uploads", "mailer.php",
		`<?php $h = strpos($argv[1], ":") ? "[$argv[1]]" : $argv[1]; $s = fsockopen("tcp://$h", (int)$argv[2]) or exit(1); fgets($s); fgets(STDIN);`)
	return []program{
		{"perl", dir, dir + "/mailer.pl", func(host, port string) []string {
			return []string{"/usr/bin/perl", "mailer.pl", host, port}
		}},
		{"python", dir, dir + "/mailer.py", func(host, port string) []string {
			return []string{"/usr/bin/python3", "mailer.py", host, port}
		}},
		{"php", dir, dir + "/mailer.php", func(host, port string) []string {
			return []string{"/usr/bin/php", dir + "/mailer.php", host, port}
		}},
		{"a static binary", dir, "", func(host, port string) []string {
			return []string{machine.knock, "-to", net.JoinHostPort(host, port), "-keep"}
		}},
	}
}

type program struct {
	name, dir, script string
	argv              func(host, port string) []string
}

// read reports whether the watch had time for all that is told of such a program's process.
func (p program) read(c connection) bool {
	return processRead(c) && (p.script == "" || c.Script != "")
}

func TestEveryProgramsConnectionsAreItsAccounts(t *testing.T) {
	for _, source := range sources() {
		t.Run(source, func(t *testing.T) {
			d := start(t, source, "")
			n := 0
			for _, p := range programs(t) {
				for _, host := range []string{lab.FarIPv4, lab.FarIPv6} {
					for _, port := range []string{"25", "465", "587"} {
						argv := p.argv(host, port)
						c := told(t, d, &n, p.read, func() *exec.Cmd { return command(t, spammer, p.dir, argv[0], argv[1:]...) })
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
			n, began := 1, time.Now()
			c := session(t, d, n, dir)
			for source == "packet" && c.Account == "(unknown)" && time.Since(began) < againTime { // it was over before the kernel was asked
				n++
				c = session(t, d, n, dir)
			}
			if c.Account != spammer || c.Remote != lab.FarIPv4+":587" || c.Directory != "" && c.Directory != dir {
				t.Errorf("connection %+v, want %s's in %q", c, spammer, dir)
			}
		})
	}
}

// session sends the message in dir, by the nth connection.
func session(t *testing.T, d *lab.Daemon, n int, dir string) connection {
	t.Helper()
	before := machine.far.Encrypted.Load()
	as(t, spammer, dir, "/usr/bin/curl", "--silent", "--max-time", "60", "--ssl-reqd", "--insecure", "--url", "smtp://"+lab.FarIPv4+":587",
		"--mail-from", "a@spam.example", "--mail-rcpt", "b@far.example", "--upload-file", "message")
	if machine.far.Encrypted.Load() == before {
		t.Error("it went on without STARTTLS")
	}
	return wanted(t, d, n)[0]
}

func TestRefusedAndBlackHoledDestinations(t *testing.T) {
	d := start(t, "ebpf", "")
	// Not a mail port: were it watched, it would be told before the others.
	_ = command(t, spammer, machine.HomeOf(spammer), machine.knock, "-to", lab.FarIPv4+":2526").Run() // it fails: that is the test
	n := 0
	for _, tt := range []struct{ to, outcome string }{
		{"127.0.0.1:465", "refused"},
		{lab.BlackHole + ":25", "unanswered"},
	} {
		c := attempted(t, d, &n, tt.to, tt.outcome)
		if c.Account != spammer || c.Remote != tt.to || c.Outcome != tt.outcome || c.PID == 0 {
			t.Errorf("to %s: %+v, want it to be %s's and %s", tt.to, c, spammer, tt.outcome)
		}
	}
	if all, err := connections(d); err != nil || len(all) != n {
		t.Errorf("%d connections, %v; want the %d to mail ports", len(all), err, n)
	}
}

// attempted has the spammer try to connect where that fails, as told does. What becomes of it
// is waited for by the watch for a short while: on a busy machine it may not hear of it.
func attempted(t *testing.T, d *lab.Daemon, n *int, to, outcome string) (c connection) {
	t.Helper()
	for began := time.Now(); ; {
		ctx, cancel := context.WithCancel(t.Context())
		_, end := staying(t, machine.As(ctx, spammer, machine.HomeOf(spammer), machine.knock, "-to", to, "-keep"))
		*n++
		c = wanted(t, d, *n)[0]
		cancel()
		_ = end() // it fails: that is the test
		if c.PID != 0 && (c.Outcome == outcome || c.Outcome != "unanswered") || time.Since(began) > againTime {
			return c
		}
		t.Logf("there was no time for it: %+v", c)
	}
}

// By the packet alone it is not known whose a connection was that was refused at once; it is
// seen, and nobody else is blamed.
func TestARefusedConnectionIsSeenByItsPacket(t *testing.T) {
	d := start(t, "packet", "")
	for range 20 {
		_ = command(t, spammer, machine.HomeOf(spammer), machine.knock, "-to", "["+lab.NearIPv6+"]:465").Run() // it fails: that is the test
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

// atOnceTime is for how long a rate may be missed: it is that of a machine with time for it. What
// is wrong is wrong each time.
const atOnceTime = 2 * time.Minute

func TestScriptsThatEndAtOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes 2 seconds for each of 7 rows")
	}
	dir := script(t, spammer, "public_html", "x", "")
	for _, r := range rates {
		t.Run(r.source+" "+r.stay, func(t *testing.T) {
			d := start(t, r.source, "")
			const n = 200
			began := time.Now()
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
				if r.whose == 100 && whose < n || time.Since(began) > atOnceTime {
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
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
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
