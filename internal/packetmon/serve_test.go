package packetmon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"osm/internal/origin"
	"osm/policy"
)

// served is a monitor without a source whose records the test puts in.
func served(t *testing.T) (m *Monitor, socket string, stop func()) {
	t.Helper()
	m, err := New(Options{Ports: []uint16{25}, Source: SourceOff, Boot: sinceBoot, Clock: origin.Clock(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(publicDir(t), "watch.sock")
	stop = serveAt(t, m, socket)
	return m, socket, stop
}

func serveAt(t *testing.T, m *Monitor, socket string) (stop func()) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, m, ServeOptions{UID: bobUID, Log: slog.New(slog.DiscardHandler)}) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func numbered(i int) Record {
	return Record{At: time.UnixMilli(int64(i)).UTC(), Connection: policy.Connection{Basis: fmt.Sprint(i)}}
}

// following is a follower that keeps what it is told.
type following struct {
	records chan Record
	status  chan Status
	gone    chan error
	skipped chan error
}

func followed(t *testing.T, socket string) (f following, stop func()) {
	t.Helper()
	f = following{make(chan Record, 50_000), make(chan Status, 1000), make(chan error, 1000), make(chan error, 1000)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Follow(ctx, socket, FollowOptions{Record: func(r Record) { f.records <- r }, Status: func(s Status) { f.status <- s },
			Gone: func(err error) { f.gone <- err }, Skipped: func(err error) { f.skipped <- err }})
	}()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Follow: %v", err)
		}
	}
	t.Cleanup(stop)
	return f, stop
}

func await[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("never came: %s", what)
		panic("unreachable")
	}
}

func TestRecordsAreHandedOnOnceAndInOrder(t *testing.T) {
	m, socket, _ := served(t)
	for i := range 100 { // while nobody follows
		m.out.put(numbered(i))
	}
	first, stop := followed(t, socket)
	for i := range 100 {
		if got := await(t, first.records, "a record"); got.Connection.Basis != fmt.Sprint(i) {
			t.Fatalf("got %q, want %d", got.Connection.Basis, i)
		}
	}
	if s := await(t, first.status, "a status"); s.Source != SourceOff {
		t.Errorf("status: got %+v", s)
	}
	stop()
	for end := sinceBoot() + int64(patience); ; time.Sleep(time.Millisecond) {
		// until the server has noticed that the follower is gone: what is sent before is lost
		c, err := net.Dial("unix", socket)
		if err == nil {
			_ = c.Close()
			break
		}
		if sinceBoot() > end {
			t.Fatal(err)
		}
	}
	second, _ := followed(t, socket)
	await(t, second.status, "a status")
	for i := range 1000 {
		m.out.put(numbered(i))
	}
	for i := range 1000 {
		if got := await(t, second.records, "a record"); got.Connection.Basis != fmt.Sprint(i) {
			t.Fatalf("got %q, want %d", got.Connection.Basis, i)
		}
	}
	if n := m.Status().Counts.Dropped; n != 0 {
		t.Errorf("dropped: got %d", n)
	}
}

func TestWhatNobodyTakesIsBoundedAndCounted(t *testing.T) {
	m, socket, _ := served(t)
	for i := range maxWaiting + 5 {
		m.out.put(numbered(i))
	}
	if n := m.Status().Counts.Dropped; n != 5 {
		t.Errorf("dropped: got %d, want 5", n)
	}
	f, _ := followed(t, socket)
	for i := range maxWaiting {
		if got := await(t, f.records, "a record"); got.Connection.Basis != fmt.Sprint(i+5) {
			t.Fatalf("got %q, want %d", got.Connection.Basis, i+5)
		}
	}
	o := newOutbox()
	big := numbered(1)
	big.Connection.Chain = []policy.Process{{Executable: strings.Repeat("x", 1<<20)}}
	for range 100 {
		o.put(big)
	}
	if waiting, _ := o.peek(1000); len(waiting) > maxWaitingBytes>>20 || o.lost() != uint64(100-len(waiting)) || o.bytes > maxWaitingBytes {
		t.Errorf("large records: %d wait with %d bytes, %d dropped", len(waiting), o.bytes, o.lost())
	}
}

func TestASlowFollowerHindersNothing(t *testing.T) {
	m, socket, _ := served(t)
	c, err := net.Dial("unix", socket) // it never reads
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for i := range 3 * maxWaiting {
		m.out.put(numbered(i))
	}
	f, _ := followed(t, socket) // takes the other one's place, which may take what was being written
	last := -1
	for last != 3*maxWaiting-1 {
		got := await(t, f.records, "a record")
		if _, err := fmt.Sscan(got.Connection.Basis, &last); err != nil {
			t.Fatal(err)
		}
	}
	if n := m.Status().Counts.Dropped; n < maxWaiting {
		t.Errorf("dropped: got %d, want at least %d", n, maxWaiting)
	}
}

// Without a status the daemon takes the watch for dead.
func TestTheStatusIsToldInTheMidstOfAFlood(t *testing.T) {
	m, socket, stop := served(t)
	told := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	for range 1000 {
		m.out.put(numbered(0))
	}
	go func() {
		// For each one that is taken there are two more: it never gets to the end.
		done <- Follow(ctx, socket, FollowOptions{Record: func(Record) { m.out.put(numbered(1)); m.out.put(numbered(2)) }, Status: func(Status) {
			select {
			case told <- struct{}{}:
			default:
			}
		}})
	}()
	for range 3 { // the first is told at once
		await(t, told, "a status")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	stop()
}

func TestOnlyTheDaemonMayFollow(t *testing.T) {
	m, socket, _ := served(t)
	m.out.put(numbered(1))
	perl := `use IO::Socket::UNIX; my $s=IO::Socket::UNIX->new(Peer=>$ARGV[0]) or die $!; my $l=<$s>; print length($l//""), "\n";`
	for uid, allowed := range map[uint32]bool{aliceUID: false, bobUID: true} {
		cmd := exec.Command("/usr/bin/perl", "-e", perl, socket)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Skipf("SKIPPED: run as uid %d: %v: %s", uid, err, out)
		}
		if (string(out) != "0\n") != allowed {
			t.Errorf("uid %d: got %q, want allowed %v", uid, out, allowed)
		}
	}
}

func TestAFollowerComesBackAndBelievesOnlyRoot(t *testing.T) {
	dir := publicDir(t)
	socket := filepath.Join(dir, "watch.sock")
	f, _ := followed(t, socket)
	if err := await(t, f.gone, "the news that there is no watch"); !strings.Contains(err.Error(), "connect to the watch") {
		t.Errorf("got %v", err)
	}
	m, err := New(Options{Source: SourceOff, Boot: sinceBoot, Clock: origin.Clock(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	stop := serveAt(t, m, socket)
	await(t, f.status, "a status")
	stop()
	await(t, f.gone, "the news that the watch ended")
	serveAt(t, m, socket)
	await(t, f.status, "a status")
	if len(f.gone) > 0 {
		t.Errorf("told more than once: %v", <-f.gone)
	}

	forged := filepath.Join(dir, "forged")
	if err := os.Mkdir(forged, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(forged, 0o777); err != nil {
		t.Fatal(err)
	}
	c := start(t, aliceUID, forged, "/usr/bin/perl", "-e", `use IO::Socket::UNIX; $|=1; my $l=IO::Socket::UNIX->new(Local=>"s",Listen=>5) or die $!;
		chmod 0666,"s"; print "ready\n"; while (my $c=$l->accept) { print $c "{\"status\":{}}\n"; sleep 5 }`)
	c.line(t)
	other, _ := followed(t, filepath.Join(forged, "s"))
	if err := await(t, other.gone, "a refusal"); !strings.Contains(err.Error(), "runs as uid 20001") {
		t.Errorf("got %v", err)
	}
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
}

func TestAFollowerPassesOverWhatItCannotRead(t *testing.T) {
	socket := filepath.Join(publicDir(t), "watch.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	f, _ := followed(t, socket)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	r := numbered(7)
	line, err := AppendMessage(nil, Message{Record: &r})
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(c)
	_, _ = w.WriteString("nonsense\n" + strings.Repeat("x", 3*maxLine) + "\n")
	_, _ = w.Write(line)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := await(t, f.records, "the record behind it"); got.Connection.Basis != "7" {
		t.Errorf("got %+v", got)
	}
	if n := len(f.skipped); n != 2 {
		t.Errorf("skipped: got %d lines, want 2", n)
	}
}

// While the first source is opened there is nothing to tell: "none" would be a false alarm.
func TestNoStatusIsToldBeforeTheSourcesWereTried(t *testing.T) {
	tries := make(chan error)
	poll := newFed(SourcePoll)
	m, err := New(Options{Ports: []uint16{25}, Boot: sinceBoot, Clock: origin.Clock(), Log: slog.New(slog.DiscardHandler),
		Openers: []Opener{{Name: SourceEBPF, Open: func() (Source, error) { return nil, <-tries }}, poll.opener()}})
	if err != nil {
		t.Fatal(err)
	}
	run(t, m)
	socket := filepath.Join(publicDir(t), "watch.sock")
	serveAt(t, m, socket)
	f, _ := followed(t, socket)
	m.out.put(numbered(1))
	<-f.records // it is followed by now, and was told a status if there was one
	select {
	case s := <-f.status:
		t.Errorf("told %+v", s)
	default:
	}
	tries <- errors.New("not here")
	if s := <-f.status; s.Source != SourcePoll {
		t.Errorf("the first status is %+v, want the source poll", s)
	}
}
