package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	eximacl "osm/exim-acl"
	"osm/policy"
	"osm/tests/lab"
)

// benchUID is no other machine's: the tracepoint tells of all of them, and a uid that connects
// in another one too is nobody's now and then.
const benchUID = 28001

type bench struct {
	o      options
	dir    string
	l      *lab.Lab
	passwd []byte // as it was before the first panel
}

// result is what the load generator prints.
type result struct {
	Checks    int64   `json:"checks"`
	Failed    int64   `json:"failed"`
	Unknown   int64   `json:"unknown"` // answers without the marker
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_us"`
	P99       float64 `json:"p99_us"`
	CPU       float64 // of the server per check, microseconds
}

// server is one process that answers on a socket.
type server struct {
	name, socket string
	pid          int
	client       string // uid:gid of who asks
}

func (b *bench) load(s server, requests string, clients int, rate float64) (result, error) {
	before, err := cpuSeconds(s.pid)
	if err != nil {
		return result{}, err
	}
	out, err := exec.Command(b.o.bin+"/load", s.socket, requests, strconv.Itoa(clients),
		fmt.Sprint(b.o.seconds), fmt.Sprint(rate), s.client).Output()
	if err != nil {
		return result{}, fmt.Errorf("load on %s: %w", s.name, err)
	}
	after, err := cpuSeconds(s.pid)
	if err != nil {
		return result{}, err
	}
	var r result
	if err := json.Unmarshal(out, &r); err != nil {
		return r, fmt.Errorf("load printed %.200q: %w", out, err)
	}
	if r.Failed > 0 || r.Unknown > 0 {
		return r, fmt.Errorf("%s: %d of %d checks failed, %d without a whole answer", s.name, r.Failed, r.Checks, r.Unknown)
	}
	r.CPU = (after - before) * 1e6 / float64(r.Checks)
	return r, nil
}

// requests writes n submissions of different accounts, as SMTP AUTH makes them: five
// counters each (account per hour and day, Subject, login, client IP).
func (b *bench) requests(accounts int) (string, error) {
	path := filepath.Join(b.dir, fmt.Sprintf("requests-%d", accounts))
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var buf []byte
	for i := range accounts {
		buf = buf[:0]
		// Spread over the accounts, so that threads do not walk in step.
		a := (i * 7919) % accounts
		req := eximacl.AppendRequest(nil, &policy.Submission{
			MessageID: fmt.Sprintf("1vN3xQ-%06d-2F", i%1000000), Protocol: "esmtpa", CallerUID: 102,
			ClientIP: netip.AddrFrom4([4]byte{198, 51, byte(a >> 8), byte(a)}), ClientPort: 40000,
			LocalIP: netip.MustParseAddr("192.0.2.1"), LocalPort: 587, Size: 2300, Recipients: 1,
			RecipientList: "reader@elsewhere.example", WorkingDirectory: "/var/spool/exim4",
			AuthenticatedID: fmt.Sprintf("info@d%d.example", a), Authenticator: "plain",
			HELO: "client.example", EnvelopeSender: fmt.Sprintf("info@d%d.example", a),
			HeaderFrom: "Shop <info@shop.example>", Subject: " Your order 1234 is on its way\n",
		})
		buf = binary.LittleEndian.AppendUint32(buf, uint32(len(req)))
		if _, err := f.Write(append(buf, req...)); err != nil {
			return "", err
		}
	}
	return path, nil
}

// benchRules counts everything and stops nothing: enforcing triggers out of reach.
const benchRules = `
[[trigger]]
name = "account-hour"
max = 1000000000
mode = "enforce"
[[trigger]]
name = "account-day"
max = 1000000000
mode = "enforce"
[[trigger]]
name = "subject-hour"
max = 1000000000
mode = "enforce"
[[trigger]]
name = "login-hour"
max = 1000000000
mode = "enforce"
[[trigger]]
name = "client-ip-hour"
max = 1000000000
mode = "enforce"
[[trigger]]
name = "direct-hour"
max = 1000000000
mode = "enforce"
[[trigger]]
name = "direct-directory-hour"
max = 1000000000
mode = "enforce"
`

// panel makes a panel of so many accounts: DirectAdmin's map is the plainest.
func (b *bench) panel(accounts int) error {
	if b.passwd == nil {
		old, err := os.ReadFile("/etc/passwd")
		if err != nil {
			return err
		}
		b.passwd = old
	}
	var domains, passwd strings.Builder
	passwd.Write(b.passwd)
	for i := range accounts {
		fmt.Fprintf(&domains, "d%d.example: u%d\n", i, i)
		fmt.Fprintf(&passwd, "u%d:x:%d:%d::/home/u%d:/bin/false\n", i, 100000+i, 100000+i, i)
	}
	if err := os.MkdirAll("/etc/virtual", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile("/etc/virtual/domainowners", []byte(domains.String()), 0o644); err != nil {
		return err
	}
	return os.WriteFile("/etc/passwd", []byte(passwd.String()), 0o644)
}

func (b *bench) startEcho() (server, *exec.Cmd, error) {
	s := server{name: "echo", socket: b.dir + "/echo.sock", client: b.client()}
	cmd := exec.Command(b.o.bin+"/echo", s.socket)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return s, nil, err
	}
	s.pid = cmd.Process.Pid
	return s, cmd, lab.WaitFor(5*time.Second, "echo to listen", func() error { _, err := os.Stat(s.socket); return err })
}

// client is Exim's run-time user: only it may ask.
func (b *bench) client() string { return fmt.Sprintf("%d:%d", b.l.EximUID, b.l.EximGID) }

// daemon starts an osmd on sockets of its own.
func (b *bench) daemon(name string, args ...string) (server, *lab.Daemon, error) {
	l := *b.l
	l.Run, l.State = filepath.Join(b.dir, name, "run"), filepath.Join(b.dir, name, "state")
	for _, d := range []string{l.Run, l.State} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return server{}, nil, err
		}
	}
	rules := strings.Replace(benchRules, "\n[[trigger]]", "\n[log]\nlevel = \"warn\"\n[[trigger]]", 1)
	d, err := l.StartOsmd(b.o.bin, rules, args...)
	if err != nil {
		return server{}, nil, err
	}
	return server{name: name, socket: l.PolicySocket(), pid: d.PID(), client: b.client()}, d, nil
}

// socket measures the question alone, against the echo server.
func (b *bench) socket() ([]figure, error) {
	if err := b.prepare(10_000); err != nil {
		return nil, err
	}
	requests, err := b.requests(10_000)
	if err != nil {
		return nil, err
	}
	echo, cmd, err := b.startEcho()
	if err != nil {
		return nil, err
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	bare, db, err := b.daemon("memory", "-without-store")
	if err != nil {
		return nil, err
	}
	defer db.Stop()
	stored, ds, err := b.daemon("stored")
	if err != nil {
		return nil, err
	}
	defer ds.Stop()
	servers := []server{echo, bare, stored}
	type key struct {
		server, clients int
		rate            float64
	}
	got := map[key][]result{}
	for round := range b.o.rounds {
		for _, m := range []struct {
			clients int
			rate    float64
		}{{8, 0}, {64, 0}, {64, 1000}} {
			for i := range servers {
				s := (i + round) % len(servers) // nobody is always first
				r, err := b.load(servers[s], requests, m.clients, m.rate)
				if err != nil {
					return nil, err
				}
				k := key{s, m.clients, m.rate}
				got[k] = append(got[k], r)
			}
		}
	}
	pick := func(s, clients int, rate float64, f func(result) float64) sample {
		var out sample
		for _, r := range got[key{s, clients, rate}] {
			out = append(out, f(r))
		}
		return out
	}
	ratio := func(s, clients int, rate float64, f func(result) float64) sample {
		return ratios(pick(s, clients, rate, f), pick(0, clients, rate, f))
	}
	rate := func(r result) float64 { return r.PerSecond }
	cpu := func(r result) float64 { return r.CPU }
	p99 := func(r result) float64 { return r.P99 }
	const anchor = "Go echo server"
	return []figure{
		{"echo: checks/s, 8 clients", "-", pick(0, 8, 0, rate), "/s", "", 0, false},
		{"checks/s, 8 clients, in memory", anchor, ratio(1, 8, 0, rate), "", "≥ 0.85", 0.85, false},
		{"checks/s, 64 clients, in memory", anchor, ratio(1, 64, 0, rate), "", "≥ 0.85", 0.85, false},
		{"checks/s, 8 clients, stored", anchor, ratio(2, 8, 0, rate), "", "≥ 0.70", 0.70, false},
		{"checks/s, 64 clients, stored", anchor, ratio(2, 64, 0, rate), "", "≥ 0.70", 0.70, false},
		{"server CPU per check, 8 clients, in memory", anchor, ratio(1, 8, 0, cpu), "", "≤ 1.25", 1.25, true},
		{"server CPU per check, 8 clients, stored", anchor, ratio(2, 8, 0, cpu), "", "≤ 1.6", 1.6, true},
		{"p99, 8 clients, in memory", anchor, ratio(1, 8, 0, p99), "", "≤ 1.5", 1.5, true},
		{"p99, 8 clients, stored", anchor, ratio(2, 8, 0, p99), "", "≤ 2.5", 2.5, true},
		{"p99, open loop 1,000/s, stored", anchor, ratio(2, 64, 1000, p99), "", "≤ 1.5", 1.5, true},
		{"p99, open loop 1,000/s, stored", "-", pick(2, 64, 1000, p99), " µs", "< 2000", 2000, true},
	}, nil
}

// accounts compares a million accounts with a thousand.
func (b *bench) accounts() ([]figure, error) {
	few, err := b.requests(1000)
	if err != nil {
		return nil, err
	}
	many, err := b.requests(1_000_000)
	if err != nil {
		return nil, err
	}
	if err := b.prepare(1_000_000); err != nil {
		return nil, err
	}
	s, d, err := b.daemon("million", "-without-store")
	if err != nil {
		return nil, err
	}
	defer d.Stop()
	var a, z sample
	for range b.o.rounds {
		x, err := b.load(s, few, 8, 0)
		if err != nil {
			return nil, err
		}
		y, err := b.load(s, many, 8, 0)
		if err != nil {
			return nil, err
		}
		a, z = append(a, x.PerSecond), append(z, y.PerSecond)
	}
	return []figure{{"checks/s, 1,000,000 accounts", "1,000 accounts", ratios(z, a), "", "≥ 0.85", 0.85, false}}, nil
}

// prepare makes the lab and a panel of so many accounts.
func (b *bench) prepare(accounts int) error {
	if b.l == nil {
		if err := lab.OverlayEtc(b.dir); err != nil {
			return err
		}
		l, err := lab.New(lab.Options{Dir: b.dir, FirstUID: benchUID, Accounts: []string{"shop"}, TmpfsSpool: true})
		if err != nil {
			return err
		}
		b.l = l
	}
	b.l.Panel = "directadmin"
	return b.panel(accounts)
}
