package evidence

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"osm/internal/origin"
	"osm/policy"
)

// scene is a server on which everything happened at a known boot time: its pages are drawn
// from it at each question, with the second's resolution that Apache's have.
type scene struct {
	t     *testing.T
	clock func() policy.Moment
	url   string
	rows  []drawn
	pool  Pool
	procs []fpmProcess // Duration is filled in
	open  bool         // connections are still in the hands of who made them
}

// drawn is a row whose request began at a boot time and, if that is not 0, ends at another.
type drawn struct {
	row
	began, ends int64
}

func newScene(t *testing.T) *scene {
	s := &scene{t: t, clock: origin.Clock()}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/server-status" {
			s.draw(w)
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(srv.Close)
	s.url = srv.URL
	return s
}

func (s *scene) draw(w http.ResponseWriter) {
	fmt.Fprint(w, "<h1>Apache Server Status</h1><table><tr><th>Srv</th><th>PID</th><th>Acc</th><th>M</th><th>SS</th><th>Req</th><th>Client</th><th>VHost</th><th>Request</th></tr>")
	now := s.clock().Boot
	for _, d := range s.rows {
		r := d.row
		r.state, r.seconds = 'W', (now-d.began)/1000
		if d.ends != 0 && now >= d.ends {
			r.state, r.seconds, r.millis, r.accesses = '_', (now-d.ends)/1000, d.ends-d.began, r.accesses+1
		}
		fmt.Fprintf(w, "<tr><td>%s</td><td>%d</td><td>0/%d/9</td><td><b>%c</b></td><td>%d</td><td>%d</td><td>%s</td><td>%s</td><td>%s</td></tr>\n",
			r.slot, r.pid, r.accesses, r.state, r.seconds, r.millis, r.client, r.vhost, html.EscapeString(r.request))
	}
	fmt.Fprint(w, "</table>")
}

// servePool answers as php-fpm's status page would.
func (s *scene) servePool(began func(i int) int64) {
	path := filepath.Join(s.t.TempDir(), "fpm")
	l, err := net.Listen("unix", path)
	if err != nil {
		s.t.Fatal(err)
	}
	s.pool = Pool{Name: "shop", Address: path, StatusPath: "/fpm-status"}
	done := make(chan struct{})
	s.t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 4096)) // the question is one write
			status := fpmStatus{Pool: "shop", Idle: 1, Total: len(s.procs), Processes: append([]fpmProcess{}, s.procs...)}
			for i := range status.Processes {
				status.Processes[i].Duration = (s.clock().Boot - began(i)) * 1000
			}
			b, _ := json.Marshal(status)
			_, _ = c.Write(stdout(cgiHead + string(b)))
			c.Close()
		}
	}()
}

func (s *scene) gatherer() *Gatherer {
	s.t.Helper()
	o := Options{Apache: []string{s.url}, Now: s.clock}
	if s.pool.Name != "" {
		o.Pools = []Pool{s.pool}
	}
	g, err := New(o)
	if err != nil {
		s.t.Fatal(err)
	}
	return g
}

// real is a process that runs: this one.
func real(t *testing.T, uid uint32, file string, args ...string) policy.Process {
	t.Helper()
	return policy.Process{PID: int32(os.Getpid()), UID: uid, Executable: file, Args: args, Started: startOf(t, os.Getpid())}
}

func startOf(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, started, ok := parseStat(b)
	if !ok {
		t.Fatalf("stat of %d: %q", pid, b)
	}
	return started
}

// sentAt is a process that was started at a boot time and is gone.
func sentAt(boot int64) policy.Process {
	p := proc(1<<21, 20001, "/usr/bin/dash", "sh", "-c", "sendmail -t -i")
	p.Started = (boot - policy.BootShift) / tickMillis
	return p
}

var (
	exim     = proc(1<<21+1, 20001, "/usr/sbin/exim4")
	rootsWeb = proc(1, 0, "/usr/sbin/apache2")
	rootsFPM = proc(1, 0, "/usr/sbin/php-fpm8.2")
	message  = &policy.Submission{WorkingDirectory: "/home/shop/public_html", PHPScript: "20001:a.php"}
	shops    = policy.Identity{Account: "shop", Script: "/home/shop/public_html/a.php", ScriptBasis: "a claim"}
)

func request(pid int32, client string, began int64) drawn {
	return drawn{row{slot: "0-0", pid: pid, accesses: 4, client: client, vhost: "shop.example:80", request: "GET /a.php?x=1 HTTP/1.1"}, began, 0}
}

func (s *scene) gather(chain []policy.Process, asked int64) policy.Evidence {
	s.t.Helper()
	now := s.clock()
	wall := now.Wall.Add(time.Duration(asked-now.Boot) * time.Millisecond)
	return s.gatherer().Gather(context.Background(), message, chain, shops, policy.Moment{Boot: asked, Wall: wall})
}

// atWork shows a worker's request that began and ended so long before now, beside another's.
// Ending at 0 is later than is looked.
func (s *scene) atWork(worker int32, now, began, ends int64) {
	r := request(worker, "192.0.2.1", now-began)
	if ends != 0 {
		r.ends = now - ends
	}
	s.rows = []drawn{request(worker+1, "192.0.2.2", now-4000), r}
}

// atBest looks again while less is found out than could be: a machine that stalls may miss a
// short request. What is too much, such as a wrong visitor, is not tried again.
func atBest(could policy.Confidence, look func() policy.Evidence) (e policy.Evidence) {
	for range 5 {
		if e = look(); e.Confidence >= could {
			break
		}
	}
	return e
}

func (s *scene) expect(e policy.Evidence, client string, c policy.Confidence) {
	s.t.Helper()
	got := ""
	if e.ClientIP.IsValid() {
		got = e.ClientIP.String()
	}
	if got != client || e.Confidence != c || client == "" && (e.URL != "" || e.Method != "") {
		s.t.Errorf("the evidence is %+v, want visitor %q with confidence %v", e, client, c)
	}
}

func TestModPHP(t *testing.T) {
	for _, c := range []struct {
		name          string
		began, ends   int64 // before now; ends: 0 = later than is looked
		started       int64 // of sendmail, before now
		want          string
		confidence    policy.Confidence
		workerIsAlien bool
	}{
		{name: "a request that began seconds before", began: 5000, started: 3000, want: "192.0.2.1", confidence: policy.ConfidenceHigh},
		{name: "one that began within the second", began: 900, started: 200, want: "192.0.2.1", confidence: policy.ConfidenceHigh},
		{name: "one that ends while it is looked at", began: 700, ends: -250, started: 100, want: "192.0.2.1", confidence: policy.ConfidenceHigh},
		{name: "one that began after the message", began: 300, started: 500},
		{name: "one that began long after the message", began: 300, started: 9000},
		{name: "one that ended before the message", began: 9000, ends: 7000, started: 100},
		{name: "one that ended at about that time", began: 9000, ends: 120, started: 100},
		{name: "a process that has the number of another one", began: 5000, started: 3000, workerIsAlien: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			worker := real(t, 33, "/usr/sbin/apache2")
			if c.workerIsAlien {
				worker.Started++
			}
			e := atBest(c.confidence, func() policy.Evidence {
				now := s.clock().Boot
				s.atWork(worker.PID, now, c.began, c.ends)
				return s.gather([]policy.Process{exim, sentAt(now - c.started), worker, rootsWeb}, now-c.started+15)
			})
			s.expect(e, c.want, c.confidence)
			if (e.Script == shops.Script) != (c.want != "") || c.want != "" && (e.URL != "/a.php?x=1" || e.Method != "GET" || e.VirtualHost != "shop.example" || e.PID != worker.PID) {
				t.Errorf("the evidence is %+v", e)
			}
		})
	}
}

func TestAScriptIsNamedOnlyWhereURLDirectoryAndHeaderAgree(t *testing.T) {
	s := newScene(t)
	now := s.clock().Boot
	worker := real(t, 33, "/usr/sbin/apache2")
	for url, want := range map[string]string{"/a.php?x=1": shops.Script, "/": "", "/contact": "", "/index.php": "", "/sub/a.php/": "", "/sub/a.php": "", "/public_html/a%2ephp": shops.Script, "/html/a.php": ""} {
		r := request(worker.PID, "192.0.2.1", now-5000)
		r.request = "GET " + url + " HTTP/1.1"
		s.rows = []drawn{r}
		e := s.gather([]policy.Process{exim, sentAt(now - 3000), worker, rootsWeb}, now-2990)
		s.expect(e, "192.0.2.1", policy.ConfidenceHigh)
		if e.Script != want || e.URL != url || want == "" && !strings.Contains(e.Basis, "header names a.php") && !strings.Contains(e.Basis, `header names "a.php"`) {
			t.Errorf("%s: script %q by %q, want %q", url, e.Script, e.Basis, want)
		}
	}
}

// A script may leave sendmail behind: a request that began in the clock tick in which it was
// started, or after it, is not named though sendmail still ran under that very process.
func TestARequestThatMayHaveFollowedIsNotNamed(t *testing.T) {
	s := newScene(t)
	worker := real(t, 33, "/usr/sbin/apache2")
	for _, late := range []int64{3, 15, 60} {
		now := s.clock().Boot
		child := sentAt(now - 100)
		r := request(worker.PID, "192.0.2.1", ticksBoot(child.Started)+late)
		r.ends = now + 150
		s.rows = []drawn{r}
		s.expect(s.gather([]policy.Process{exim, child, worker, rootsWeb}, now), "", policy.ConfidenceNone)
	}
}

func TestMailByThePagesOwnConnection(t *testing.T) {
	s := newScene(t)
	worker := real(t, 33, "/usr/sbin/apache2")
	now := s.clock().Boot
	s.rows = []drawn{request(worker.PID, "192.0.2.1", now-5000)}
	s.expect(s.gather([]policy.Process{worker, rootsWeb}, now-1000), "192.0.2.1", policy.ConfidenceLow)
	s.rows = []drawn{request(worker.PID, "192.0.2.1", now-500)}
	s.expect(s.gather([]policy.Process{worker, rootsWeb}, now-3000), "", policy.ConfidenceNone)
}

func TestAfterTheClockWasSetNobodyIsNamed(t *testing.T) {
	s := newScene(t)
	worker := real(t, 33, "/usr/sbin/apache2")
	at := s.clock()
	s.rows = []drawn{request(worker.PID, "192.0.2.1", at.Boot-5000)}
	at.Wall = at.Wall.Add(-time.Second)
	e := s.gatherer().Gather(context.Background(), message, []policy.Process{exim, sentAt(at.Boot - 1000), worker, rootsWeb}, shops, at)
	s.expect(e, "", policy.ConfidenceNone)
	if !strings.Contains(e.Basis, "clock was set") {
		t.Errorf("the basis is %q", e.Basis)
	}
}

func TestAProcessIsTheOneThatItWas(t *testing.T) {
	sleeper := exec.Command("sleep", "60")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	p := policy.Process{PID: int32(sleeper.Process.Pid), Started: startOf(t, sleeper.Process.Pid)}
	if !stillRuns(&p) {
		t.Error("a process that runs is gone")
	}
	other := p
	other.Started--
	if stillRuns(&other) {
		t.Error("a process that was started at another time is the same")
	}
	if err := sleeper.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = sleeper.Wait() // "signal: killed" is what was asked for
	if stillRuns(&p) {
		t.Error("a process that has ended runs")
	}
}

func TestAProcessOfManyThreadsTellsNoVisitor(t *testing.T) {
	s := newScene(t)
	now := s.clock().Boot
	worker := real(t, 33, "/usr/sbin/apache2")
	s.rows = []drawn{request(worker.PID, "192.0.2.1", now-5000), request(worker.PID, "192.0.2.2", now-5000)}
	e := s.gather([]policy.Process{exim, sentAt(now - 3000), worker, rootsWeb}, now-2990)
	s.expect(e, "", policy.ConfidenceNone)
	if !strings.Contains(e.Basis, "several requests") {
		t.Errorf("the basis is %q", e.Basis)
	}
}

func TestCGI(t *testing.T) {
	for _, c := range []struct {
		name       string
		client     string // in Apache's row
		began      int64
		threads    bool
		want       string
		confidence policy.Confidence
	}{
		{"the parent shows the same", "192.0.2.1", 5000, false, "192.0.2.1", policy.ConfidenceHigh},
		{"the parent shows the same, within the second", "192.0.2.1", 100, false, "192.0.2.1", policy.ConfidenceHigh},
		{"the parent shows another visitor for certain", "192.0.2.7", 5000, false, "192.0.2.7", policy.ConfidenceHigh},
		{"the parent shows a later request", "192.0.2.7", -2000, false, "", policy.ConfidenceLow},
		{"a thread shows the same", "192.0.2.1", 100, true, "192.0.2.1", policy.ConfidenceHigh},
		{"no thread shows it", "192.0.2.7", 100, true, "", policy.ConfidenceLow},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			parent := real(t, 33, "/usr/sbin/apache2")
			e := atBest(c.confidence, func() policy.Evidence {
				now := s.clock().Boot
				php := sentAt(now - 60)
				php.PID, php.Executable, php.Args = 1<<21+2, "/usr/bin/php-cgi8.2", nil
				php.RemoteAddr, php.RequestURI, php.ScriptFilename, php.ServerName = "192.0.2.1", "/a.php?x=1", shops.Script, "shop.example"
				row := request(parent.PID, c.client, now-c.began)
				if c.began < 0 {
					php.Started -= 400
					row.began = now - 10
				}
				if c.threads {
					row.pid++
				}
				s.rows = []drawn{row}
				return s.gather([]policy.Process{exim, sentAt(now - 40), php, parent, rootsWeb}, now-20)
			})
			s.expect(e, c.want, c.confidence)
		})
	}
}

// A process may write into its own environment: where Apache shows that its parent works for
// another one, and the time does not tell for certain, neither is named.
func TestAnEnvironmentThatApacheContradicts(t *testing.T) {
	s := newScene(t)
	now := s.clock().Boot
	parent := real(t, 33, "/usr/sbin/apache2")
	perl := sentAt(now - 60)
	perl.PID, perl.Executable, perl.Args = 1<<21+2, "/usr/bin/perl", []string{"perl", "a.cgi"}
	perl.RemoteAddr, perl.RequestURI = "198.51.100.9", "/innocent"
	r := request(parent.PID, "192.0.2.1", ticksBoot(perl.Started)+4) // in the same clock tick
	r.ends = now + 100
	s.rows = []drawn{r}
	s.expect(s.gather([]policy.Process{exim, perl, parent, rootsWeb}, now-20), "", policy.ConfidenceLow)
}

// The wrapper that a panel runs PHP by is not the script.
func TestTheProgramThatRunsPHPIsNotTheScript(t *testing.T) {
	s := newScene(t)
	now := s.clock().Boot
	parent := real(t, 33, "/usr/sbin/apache2")
	php := sentAt(now - 3000)
	php.Executable = "/usr/bin/php-cgi8.2"
	php.RemoteAddr, php.RequestURI = "192.0.2.1", "/a.php?x=1"
	for file, want := range map[string]string{
		"/usr/local/cpanel/cgi-sys/ea-php82":  "/home/shop/public_html/a.php",
		"/home/shop/public_html/other.php":    "/home/shop/public_html/other.php",
		"/home/shop/public_html/x/../y.phtml": "/home/shop/public_html/y.phtml",
	} {
		php.ScriptFilename = file
		if e := s.gather([]policy.Process{exim, sentAt(now - 2000), php, parent, rootsWeb}, now); e.Script != want {
			t.Errorf("SCRIPT_FILENAME=%s: script %q, want %q", file, e.Script, want)
		}
	}
}

func TestPHPFPM(t *testing.T) {
	for _, c := range []struct {
		name         string
		began        int64 // before now
		started      int64
		state        string
		others       int
		want, script string
		confidence   policy.Confidence
	}{
		{"a request that is under way", 900, 200, "Running", 0, "192.0.2.1", "/srv/shop/a.php", policy.ConfidenceHigh},
		{"one that began in the same tick", 197, 200, "Running", 0, "", "", policy.ConfidenceNone},
		{"one that began after the message", 150, 200, "Running", 0, "", "", policy.ConfidenceNone},
		{"one that has ended", 300, 200, "Idle", 0, "", "", policy.ConfidenceNone},
		{"two visitors of the same URL", 900, 200, "Running", 1, "", "/srv/shop/a.php", policy.ConfidenceHigh},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			now := s.clock().Boot / 10 * 10 // the beginning of a tick
			worker := real(t, 20001, "/usr/sbin/php-fpm8.2", "php-fpm: pool shop")
			began := now - c.began
			s.procs = []fpmProcess{{PID: worker.PID, State: c.state, Method: "GET", URI: "/a.php?x=1", Script: "/srv/shop/a.php"}}
			s.rows = []drawn{request(501, "192.0.2.1", began-2)}
			for i := range c.others {
				s.procs = append(s.procs, fpmProcess{PID: worker.PID + 1 + int32(i), State: "Running", Method: "GET", URI: "/a.php?x=1", Script: "/srv/shop/a.php"})
				s.rows = append(s.rows, request(502, "192.0.2.2", began-2))
			}
			s.servePool(func(int) int64 { return began })
			e := atBest(c.confidence, func() policy.Evidence {
				return s.gather([]policy.Process{exim, sentAt(now - c.started), worker, rootsFPM}, now-5)
			})
			if e.ClientIP.IsValid() != (c.want != "") || c.want != "" && e.ClientIP.String() != c.want || e.Script != c.script || e.Confidence != c.confidence {
				t.Errorf("the evidence is %+v", e)
			}
		})
	}
}

// A daemon to which /proc hides others' processes has somebody else look at them.
func TestAWorkerThatProcDoesNotShow(t *testing.T) {
	for _, runs := range []bool{true, false} {
		s := newScene(t)
		now := s.clock().Boot
		worker := real(t, 20001, "/usr/sbin/php-fpm8.2", "php-fpm: pool shop")
		worker.Started-- // in /proc it is not to be found
		s.procs = []fpmProcess{{PID: worker.PID, State: "Running", Method: "GET", URI: "/a.php", Script: "/srv/shop/a.php"}}
		s.servePool(func(int) int64 { return now - 900 })
		g := s.gatherer()
		g.opt.StillRuns = func(_ context.Context, p *policy.Process) bool {
			return runs && p.PID == worker.PID && p.Started == worker.Started
		}
		at := s.clock()
		e := g.Gather(context.Background(), message, []policy.Process{exim, sentAt(now - 200), worker, rootsFPM}, shops, at)
		if named := e.Script == "/srv/shop/a.php"; named != runs {
			t.Errorf("if others see it run (%v) the evidence is %+v", runs, e)
		}
	}
}

func TestWithoutAnyServerTheClaimRemains(t *testing.T) {
	clock := origin.Clock()
	g, err := New(Options{Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	at := clock()
	worker := real(t, 33, "/usr/sbin/apache2")
	pool := real(t, 20001, "/usr/sbin/php-fpm8.2", "php-fpm: pool shop")
	shell := proc(5, 20001, "/usr/bin/bash", "bash")
	e := g.Gather(context.Background(), message, []policy.Process{exim, shell}, shops, at)
	if e.Script != shops.Script || e.Confidence != policy.ConfidenceLow || e.Basis != "a claim" || !e.SeenAt.Equal(at.Wall) {
		t.Errorf("from a shell: %+v", e)
	}
	e = g.Gather(context.Background(), message, nil, shops, at)
	if e.Script != "" || e.Confidence != policy.ConfidenceNone || !strings.Contains(e.Basis, shops.Script) {
		t.Errorf("without a chain: %+v", e)
	}
	for name, chain := range map[string][]policy.Process{
		"mod_php": {exim, sentAt(at.Boot), worker, rootsWeb}, "php-fpm": {exim, pool, rootsFPM},
	} {
		e := g.Gather(context.Background(), message, chain, shops, at)
		if e.Script != "" || e.Confidence != policy.ConfidenceNone || e.ClientIP.IsValid() || !strings.Contains(e.Basis, `header names "a.php"`) || !e.SeenAt.Equal(at.Wall) {
			t.Errorf("%s: %+v", name, e)
		}
	}
	if e := g.Gather(context.Background(), message, nil, policy.Identity{Account: "shop"}, at); e != (policy.Evidence{}) {
		t.Errorf("out of nothing came %+v", e)
	}
}

func TestWhoeverIsInAHurryIsAnsweredAtOnce(t *testing.T) {
	s := newScene(t)
	now := s.clock().Boot
	worker := real(t, 33, "/usr/sbin/apache2")
	s.rows = []drawn{request(worker.PID, "192.0.2.1", now)}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	before := time.Now()
	g := s.gatherer()
	g.opt.Patience = time.Minute // whoever is not heard waits for so long
	g.Gather(ctx, message, []policy.Process{exim, sentAt(now), worker, rootsWeb}, shops, policy.Moment{Boot: now})
	if took := time.Since(before); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}
