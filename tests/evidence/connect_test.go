package evidence

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"osm/internal/evidence"
	"osm/internal/origin"
	"osm/internal/packetmon"
	"osm/policy"
	"osm/tests/lab"
)

// connectPage connects to another host's mail server after some milliseconds, from a port by
// which its connection is known again, writes there what is true of the request, and stays.
const connectPage = `<?php
usleep(%[2]d * 1000);
$mail = false;
for ($tries = 0; $tries < 50; $tries++) {
	$port = random_int(10000, 30000);
	if (!($truth = @fopen("%[1]s/$port", "x"))) continue; // another page's
	fwrite($truth, "n=0 ip={$_SERVER['REMOTE_ADDR']} uri={$_SERVER['REQUEST_URI']} method={$_SERVER['REQUEST_METHOD']}");
	fclose($truth);
	$from = stream_context_create(["socket" => ["bindto" => "%[5]s:$port"]]);
	$mail = @stream_socket_client("tcp://%[4]s:25", $no, $why, 5, STREAM_CLIENT_CONNECT, $from);
	if ($mail) break;
}
if (!$mail) http_response_code(500);
usleep(%[3]d * 1000);
echo "sent";
`

// watched are the connections that a source sees, each with what was found out about it.
type watched struct {
	t       *testing.T
	g       *evidence.Gatherer
	truths  string // folder
	mu      sync.Mutex
	answers []answer
	running sync.WaitGroup
}

// stillOpen asks the kernel and the inspector, as the daemon does.
func stillOpen(t *testing.T) func(context.Context, *policy.Connection) bool {
	diag := origin.NewDiag()
	t.Cleanup(func() {
		if err := diag.Close(); err != nil {
			t.Error(err)
		}
	})
	return func(ctx context.Context, c *policy.Connection) bool {
		o, err := diag.OutgoingOwner(c.Local, c.Remote, func() bool { return false })
		if err != nil || o.UID != c.UID || o.Inode == 0 || len(c.Chain) == 0 {
			return false
		}
		p, err := machine.inspector.Owner(ctx, o.UID, o.Inode)
		return err == nil && p.PID == c.Chain[0].PID
	}
}

// watch looks into every connection of a page, as the daemon does, until the test ends.
func watch(t *testing.T, source string, g *evidence.Gatherer) *watched {
	t.Helper()
	if source == packetmon.SourceEBPF && machine.tracer != nil {
		t.Skipf("NOT TESTED: this kernel gives us no tracepoints, so the ebpf source cannot be used here: %v", machine.tracer)
	}
	w := &watched{t: t, g: g, truths: filepath.Join(machine.Dir, fmt.Sprint("truths-", time.Now().UnixNano()))}
	must(t, os.Mkdir(w.truths, 0o777))
	must(t, os.Chmod(w.truths, 0o777))
	ports := []uint16{25}
	m, err := packetmon.New(packetmon.Options{
		Ports: ports, Source: source, Exim: "/usr/sbin/exim4", Clock: machine.clock, Boot: origin.BootNanoseconds,
		Excluded: func(uid uint32) bool { return uid == 0 || uid == uint32(machine.EximUID) },
		Openers:  packetmon.Openers(packetmon.SourceOptions{Ports: ports, Boot: origin.BootNanoseconds}),
		Log:      slog.New(slog.DiscardHandler),
	})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	w.running.Go(func() {
		if err := m.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	w.running.Go(func() {
		for {
			r, err := m.Next(ctx)
			if err != nil {
				return
			}
			w.running.Go(func() { w.look(&r) })
		}
	})
	t.Cleanup(func() { cancel(); w.running.Wait() })
	must(t, lab.WaitFor(30*time.Second, "the source "+source, func() error {
		if s := m.Status(); s.Source != source || s.SelfTest == "" && source != packetmon.SourcePoll {
			return fmt.Errorf("it is %s: %v", s.Source, s.Problems)
		}
		return nil
	}))
	return w
}

// look gathers what is to be known of a connection.
func (w *watched) look(r *packetmon.Record) {
	c := &r.Connection
	now := machine.clock()
	at := now.Add(-max(now.Wall.Sub(r.At), 0))
	text, err := os.ReadFile(filepath.Join(w.truths, strconv.Itoa(int(c.Local.Port()))))
	if err != nil {
		return // ebpf sees the whole machine, other tests' namespaces included
	}
	is, _ := asked{s: &policy.Submission{Subject: string(text)}}.truth()
	sub := &policy.Submission{CallerUID: -1, Direct: c}
	e := w.g.Gather(context.Background(), sub, c.Chain, policy.IdentifyConnection(c, machine.accounts), at)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers = append(w.answers, answer{is, e})
}

// count is how many connections were looked into until now.
func (w *watched) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.answers)
}

// found waits for as many connections as are wanted, behind the first ones, and returns what
// there is: whether that is enough is the caller's matter.
func (w *watched) found(from, want int) []answer {
	w.t.Helper()
	err := lab.WaitFor(20*time.Second, fmt.Sprint(want, " connections to be looked into"), func() error {
		if n := w.count() - from; n < want {
			return fmt.Errorf("%d so far", n)
		}
		return nil
	})
	if err != nil {
		w.t.Log(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.answers[from:]
}

// Pages that connect to a mail server by themselves, several visitors at once: nobody is
// named wrongly, and those that stay for 300 ms are known.
func TestTheRequestBehindAConnectionIsNamed(t *testing.T) {
	for _, after := range []int{0, 350} {
		t.Run(fmt.Sprint("connecting after ", after, " ms"), func(t *testing.T) { namesRequests(t, after) })
	}
}

func namesRequests(t *testing.T, after int) {
	const visitors = 8 // once each: a visitor's next request at once would hide the end of the one before
	sameURL := func(int, int) string { return "/a%20b/knock.php?x=1" }
	ownURL := func(v, n int) string { return fmt.Sprintf("/a%%20b/knock.php?x=%d-%d", v, n) }
	for _, way := range []struct {
		name   string
		serve  func(*testing.T) *server
		uri    func(visitor, n int) string
		script bool // is named
	}{
		{"mod_php in prefork", modPHP, sameURL, false},
		{"php-cgi by suEXEC in prefork", suexecPHP, sameURL, false},
		{"the page as a program, by suEXEC, below threads", threadedCGI, sameURL, true},
		{"php-fpm below threads, each visitor with an address of his own", fpmPHP, ownURL, true},
	} {
		for _, source := range []string{packetmon.SourceEBPF, packetmon.SourcePacket, packetmon.SourcePoll} {
			t.Run(way.name+", seen by "+source, func(t *testing.T) {
				s := way.serve(t)
				o := apacheOnly
				o.Pools, o.StillOpen = s.pools, stillOpen(t)
				w := watch(t, source, gatherer(t, o))
				stays := s.page(t, "a b/knock.php", s.shebang(fmt.Sprintf(connectPage, w.truths, after, 300, lab.FarIPv4, lab.NearIPv4)))
				script := ""
				if way.script {
					script = stays
				}
				for try := 1; ; try++ {
					from := w.count()
					visits(t, visitors, 1, way.uri)
					got := judge(t, w.found(from, visitors), script)
					t.Logf("%s, %s, %d and 300 ms: %+v", way.name, source, after, got)
					// What the kernel tells of by itself is not missed, however late we look.
					missed := got.asked < visitors && source != packetmon.SourcePoll
					if !missed && got.whole*100 >= visitors*80 {
						break
					}
					if missed || try == tries {
						t.Fatalf("all is known of %d connections of %d, want 80 %% of %d", got.whole, got.asked, visitors)
					}
				}
			})
		}
	}
}

// Pages that connect as soon as they begin, and end at once: of them nothing may be known,
// but nothing wrong is.
func TestTheRequestOfAPageThatEndsAtOnceIsNeverAWrongOne(t *testing.T) {
	const visitors, each = 4, 10
	for _, way := range []struct {
		name   string
		serve  func(*testing.T) *server
		script bool
	}{
		{"mod_php in prefork", modPHP, false},
		{"the page as a program, by suEXEC, below threads", threadedCGI, true},
		{"php-fpm below threads", fpmPHP, true},
	} {
		for _, source := range []string{packetmon.SourceEBPF, packetmon.SourcePacket} {
			t.Run(way.name+", seen by "+source, func(t *testing.T) {
				s := way.serve(t)
				o := apacheOnly
				o.Pools, o.StillOpen = s.pools, stillOpen(t)
				w := watch(t, source, gatherer(t, o))
				page := s.page(t, "knock.php", s.shebang(fmt.Sprintf(connectPage, w.truths, 0, 0, lab.FarIPv4, lab.NearIPv4)))
				visits(t, visitors, each, func(v, n int) string { return fmt.Sprintf("/knock.php?x=%d-%d", v, n) })
				script := ""
				if way.script {
					script = page
				}
				got := judge(t, w.found(0, visitors*each*9/10), script)
				t.Logf("%s, %s, at once: %+v", way.name, source, got)
				if got.asked < visitors*each*9/10 {
					t.Errorf("%d connections were looked into, want nearly all of %d", got.asked, visitors*each)
				}
			})
		}
	}
}
