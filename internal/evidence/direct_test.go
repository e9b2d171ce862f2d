package evidence

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"osm/policy"
)

// connects gathers for a connection that the first of the chain made, seen at a boot time.
func (s *scene) connects(source string, chain []policy.Process, seen int64) policy.Evidence {
	s.t.Helper()
	c := policy.Connection{Seen: source, Remote: netip.MustParseAddrPort("198.51.100.2:25"), UID: 20001, UIDKnown: true, Chain: chain}
	m := policy.NewAccountMap(policy.AccountMapInput{Accounts: []policy.Account{{Name: "shop", UID: 20001, Home: "/home/shop"}}})
	now := s.clock()
	at := policy.Moment{Boot: seen, Wall: now.Wall.Add(time.Duration(seen-now.Boot) * time.Millisecond)}
	sub := policy.Submission{CallerUID: -1, Direct: &c}
	g := s.gatherer()
	g.opt.StillOpen = func(context.Context, *policy.Connection) bool { return s.open }
	g.opt.StillRuns = func(context.Context, *policy.Process) bool { return true }
	return g.Gather(context.Background(), &sub, chain, policy.IdentifyConnection(&c, m), at)
}

// old is a process that was started long before.
func (s *scene) old(uid uint32, file string, args ...string) policy.Process {
	p := proc(1<<21+3, uid, file, args...)
	p.Started = (s.clock().Boot-policy.BootShift)/tickMillis - 60*clockTicks
	return p
}

const clockTicks = 1000 / tickMillis // a second's

func TestAPageOfModPHPThatConnects(t *testing.T) {
	for _, c := range []struct {
		name, source string
		began, seen  int64 // before now
		ends         int64 // before now; 0 = later than is looked
		confidence   policy.Confidence
	}{
		{"told in the kernel", "ebpf", 5000, 3000, 0, policy.ConfidenceHigh},
		{"told in the kernel, within the second", "ebpf", 900, 200, 0, policy.ConfidenceHigh},
		{"told in the kernel, of a page that ends 500 ms later", "ebpf", 700, 250, -250, policy.ConfidenceHigh},
		{"by its first packet", "packet", 5000, 3000, 0, policy.ConfidenceLow},
		{"by its socket", "poll", 5000, 3000, 0, policy.ConfidenceLow},
		{"that another page may have left", "poll", 900, 800, 0, policy.ConfidenceNone},
		{"before the request", "ebpf", 300, 500, 0, policy.ConfidenceNone},
		{"as the request began", "ebpf", 300, 298, 0, policy.ConfidenceNone},
		{"after the request", "ebpf", 9000, 100, 4000, policy.ConfidenceNone},
		{"as the request ended", "ebpf", 9000, 100, 97, policy.ConfidenceNone},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			worker := s.old(33, "/usr/sbin/apache2")
			worker.WorkingDirectory = "/home/shop/public_html"
			e := atBest(c.confidence, func() policy.Evidence {
				now := s.clock().Boot
				s.atWork(worker.PID, now, c.began, c.ends)
				return s.connects(c.source, []policy.Process{worker, rootsWeb}, now-c.seen)
			})
			client := ""
			if c.confidence != policy.ConfidenceNone {
				client = "192.0.2.1"
				if e.URL != "/a.php?x=1" || e.Method != "GET" || e.VirtualHost != "shop.example" ||
					!strings.HasSuffix(e.Basis, `was under way when it connected; the script's working directory is "/home/shop/public_html"`) {
					t.Errorf("the evidence is %+v", e)
				}
			}
			s.expect(e, client, c.confidence)
			if e.Script != "" {
				t.Errorf("script %q: another file of the folder may have served that URL", e.Script)
			}
		})
	}
}

func TestAPageOfPHPFPMThatConnects(t *testing.T) {
	for _, c := range []struct {
		name, source string
		began, seen  int64 // before now
		confidence   policy.Confidence
	}{
		{"told in the kernel", "ebpf", 900, 200, policy.ConfidenceHigh},
		{"by its first packet", "packet", 900, 200, policy.ConfidenceLow},
		{"after the connection", "ebpf", 200, 210, policy.ConfidenceNone},
		{"as it connected", "ebpf", 205, 200, policy.ConfidenceNone},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			now := s.clock().Boot
			worker := s.old(20001, "/usr/sbin/php-fpm8.2", "php-fpm: pool shop")
			s.procs = []fpmProcess{{PID: worker.PID, State: "Running", Method: "GET", URI: "/a.php?x=1", Script: "/srv/shop/a.php"}}
			s.rows = []drawn{request(501, "192.0.2.1", now-c.began-2)}
			s.servePool(func(int) int64 { return now - c.began })
			e := atBest(c.confidence, func() policy.Evidence { return s.connects(c.source, []policy.Process{worker, rootsFPM}, now-c.seen) })
			client, script := "192.0.2.1", "/srv/shop/a.php"
			if c.confidence == policy.ConfidenceNone {
				client, script = "", ""
			}
			s.expect(e, client, c.confidence)
			if e.Script != script {
				t.Errorf("script %q, want %q: %s", e.Script, script, e.Basis)
			}
		})
	}
}

// Pages that connect as soon as they begin: it is their request if they have the connection
// still while it is under way, and nobody's if it may have been the one before.
func TestAPageThatConnectsAsItBegins(t *testing.T) {
	for _, open := range []bool{true, false} {
		s := newScene(t)
		s.open = open
		worker := s.old(33, "/usr/sbin/apache2")
		pool := s.old(20001, "/usr/sbin/php-fpm8.2", "php-fpm: pool shop")
		s.procs = []fpmProcess{{PID: pool.PID, State: "Running", Method: "GET", URI: "/a.php?x=1", Script: "/srv/shop/a.php"}}
		began := s.clock().Boot - 30
		s.servePool(func(int) int64 { return began })
		client, script, confidence := "", "", policy.ConfidenceNone
		if open {
			client, script, confidence = "192.0.2.1", "/srv/shop/a.php", policy.ConfidenceLow
		}
		s.expect(atBest(confidence, func() policy.Evidence {
			now := s.clock().Boot
			r := request(worker.PID, "192.0.2.1", now-30)
			r.ends = now + 600
			s.rows = []drawn{r}
			return s.connects("ebpf", []policy.Process{worker, rootsWeb}, now-29)
		}), client, confidence)
		if e := s.connects("ebpf", []policy.Process{pool, rootsFPM}, began+1); e.Script != script || e.Confidence != confidence {
			t.Errorf("open: %v: the evidence is %+v", open, e)
		}
	}
}

// A CGI program is below the process of the web server, which is another user's.
func TestACGIProgramThatConnects(t *testing.T) {
	s := newScene(t)
	now := s.clock().Boot
	parent := s.old(33, "/usr/sbin/apache2")
	php := sentAt(now - 60)
	php.Executable, php.Args = "/usr/bin/php-cgi8.2", nil
	php.RemoteAddr, php.RequestURI, php.ScriptFilename = "192.0.2.1", "/a.php?x=1", shops.Script
	s.rows = []drawn{request(parent.PID, "192.0.2.1", now-100)}
	e := s.connects("packet", []policy.Process{php, parent, rootsWeb}, now-20)
	s.expect(e, "192.0.2.1", policy.ConfidenceHigh)
	if e.Script != shops.Script || e.URL != "/a.php?x=1" {
		t.Errorf("the evidence is %+v", e)
	}
}

// What counts of a program that a page started, and may have left behind, is when it was
// started.
func TestAProgramOfAPagesThatConnects(t *testing.T) {
	s := newScene(t)
	now := s.clock().Boot
	worker := s.old(33, "/usr/sbin/apache2")
	perl := sentAt(now - 3000)
	perl.Executable, perl.Args = "/usr/bin/perl", []string{"perl", "mailer.pl"}
	chain := []policy.Process{perl, worker, rootsWeb}
	s.rows = []drawn{request(worker.PID, "192.0.2.1", now-5000)}
	s.expect(s.connects("packet", chain, now-500), "192.0.2.1", policy.ConfidenceHigh)
	s.rows = []drawn{request(worker.PID, "192.0.2.2", now-1500)} // the next visitor's
	s.expect(s.connects("packet", chain, now-500), "", policy.ConfidenceNone)
}

// Who has a connection need not be who made it.
func TestAProcessThatBeganAfterItsConnectionIsNotWhoMadeIt(t *testing.T) {
	s := newScene(t)
	now := s.clock().Boot
	worker := s.old(33, "/usr/sbin/apache2")
	s.rows = []drawn{request(worker.PID, "192.0.2.1", now-5000)}
	e := s.connects("packet", []policy.Process{sentAt(now - 100), worker, rootsWeb}, now-500)
	s.expect(e, "", policy.ConfidenceNone)
	if !strings.Contains(e.Basis, "another one made it") {
		t.Errorf("the basis is %q", e.Basis)
	}
}
