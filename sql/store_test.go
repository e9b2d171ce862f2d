package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"osm/policy"
)

// day is the wall clock's time at which the tests begin.
var day = time.Date(2026, 3, 14, 9, 26, 53, 589e6, time.UTC)

// fixture is a store on a real database, with its writer running.
type fixture struct {
	*Store
	t    *testing.T
	path string
	now  atomic.Int64 // ms
	stop func() error
	log  *logs
}

// logs keeps what was logged.
type logs struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// open opens a store at path ("" = a new one) without a writer.
func open(t testing.TB, path string, change ...func(*Options)) (*fixture, error) {
	t.Helper()
	f := &fixture{path: path, log: new(logs)}
	f.t, _ = t.(*testing.T)
	if path == "" {
		f.path = filepath.Join(t.TempDir(), "osm.db")
	}
	f.now.Store(day.UnixMilli())
	o := Options{Path: f.path, BootID: "boot-1", Now: func() time.Time { return time.UnixMilli(f.now.Load()).UTC() }, Log: newLog(f.log)}
	for _, c := range change {
		c(&o)
	}
	var err error
	f.Store, err = Open(context.Background(), o)
	return f, err
}

// newLog is a logger that writes to w.
func newLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// start opens a store and runs its writer until the test ends.
func start(t testing.TB, path string, change ...func(*Options)) *fixture {
	t.Helper()
	f, err := open(t, path, change...)
	if err != nil {
		t.Fatal(err)
	}
	f.run(t)
	return f
}

// run runs the writer until stop is called or the test ends.
func (f *fixture) run(t testing.TB) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	var once sync.Once
	var err error
	f.stop = func() error {
		once.Do(func() {
			cancel()
			err = errors.Join(<-done, f.Close())
		})
		return err
	}
	t.Cleanup(func() { f.stop() })
}

// flush waits until everything is stored.
func (f *fixture) flush(t testing.TB) {
	t.Helper()
	err := f.Flush(context.Background())
	for try := 1; errors.Is(err, context.DeadlineExceeded) && try < 6; try++ { // a full queue, on a busy machine
		err = f.Flush(context.Background())
	}
	if err != nil {
		t.Fatalf("flush: %v", err)
	}
}

// until waits until cond holds, asking again after every turn of the writer.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(20 * time.Second)
	for !cond() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("waited 20 s in vain: %s", what)
		}
	}
}

// outside runs a statement on the database from outside, as another program would.
func outside(t testing.TB, path, text string, args ...any) {
	t.Helper()
	db := sql.OpenDB(&connector{dsn: dsn(path, "_busy_timeout=5000"), driver: readDriver()})
	defer db.Close()
	if _, err := db.Exec(text, args...); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

// ask reads one number from the database from outside.
func ask(t testing.TB, path, text string, args ...any) (n int64) {
	t.Helper()
	db := openReadOnly(path, false)
	defer db.Close()
	if err := db.QueryRow(text, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return n
}

// exampleDecision is decision number seq, with every field set to something of its own.
func exampleDecision(seq uint64) *policy.Decision {
	at := day.Add(time.Duration(seq) * time.Second)
	return &policy.Decision{
		Seq: seq, At: policy.Moment{Wall: at, Boot: policy.BootShift + int64(seq)*1000}, Counted: true,
		Identity: policy.Identity{
			Account: fmt.Sprintf("shop%d", seq%7), Mailbox: fmt.Sprintf("info@shop%d.example", seq%7), Source: policy.SourceLogin,
			Basis: "SMTP AUTH as info", ClientIP: netip.AddrFrom4([4]byte{192, 0, 2, byte(seq)}), IPClass: policy.IPLogin,
		},
		Submission: &policy.Submission{
			MessageID: messageID(at, seq), Recipients: int(seq%5) + 1, RecipientList: "a@example.com, b@example.com", Size: 1000 + int64(seq),
			EnvelopeSender: fmt.Sprintf("info@shop%d.example", seq%7), Subject: fmt.Sprintf("Order %d", seq), ClientIP: netip.AddrFrom4([4]byte{192, 0, 2, byte(seq)}),
		},
		SubjectKey: "order #",
	}
}

// scriptDecision is a message of a script in an account's directory.
func scriptDecision(seq uint64, account string) *policy.Decision {
	d := exampleDecision(seq)
	dir := "/home/" + account + "/public_html"
	d.Identity = policy.Identity{Account: account, Source: policy.SourceScript, Basis: "uid 1001", Directory: dir, DirectoryAccount: account, Script: dir + "/mail.php"}
	d.Submission.ClientIP = netip.Addr{}
	return d
}

// frozen makes a decision one that froze its message.
func frozen(d *policy.Decision) *policy.Decision {
	d.Verdict, d.Reason, d.Trigger, d.Counted, d.Release = policy.Freeze, policy.ReasonOver, "account-hour", false, policy.Manual
	d.Over = []policy.Over{{Trigger: "account-hour", Watch: policy.WatchAccount, Key: d.Identity.Account, Mode: policy.Enforce, Verdict: policy.Freeze,
		Max: 300, Per: time.Hour, Used: 300, Units: 1, FreeAt: d.At.Wall.Add(10 * time.Minute)}}
	return d
}

// messageID is an id as Exim 4.96 makes them.
func messageID(at time.Time, n uint64) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	base62 := func(n int64, width int) string {
		b := make([]byte, width)
		for i := width - 1; i >= 0; i-- {
			b[i] = digits[n%62]
			n /= 62
		}
		return string(b)
	}
	return base62(at.Unix(), 6) + "-" + base62(int64(n), 6) + "-2F"
}

func TestADecisionComesBackAsItWas(t *testing.T) {
	f := start(t, "")
	ctx := context.Background()
	d := frozen(scriptDecision(7, "shop"))
	d.Would, d.HoldID, d.EventID = policy.Defer, 3, 4
	d.Identity.SubKey = "uid 1001"
	if !f.Append(d) || !f.Append(exampleDecision(8)) {
		t.Fatal("Append refused a decision")
	}
	f.flush(t)
	want := Decision{
		Ref: policy.RefOf(7, f.RefKey()), At: Time{d.At.Wall}, MessageID: d.Submission.MessageID, Source: "script", Account: "shop", Basis: "uid 1001",
		WorkingDirectory: "/home/shop/public_html", Script: "/home/shop/public_html/mail.php", EnvelopeSender: "info@shop0.example",
		Subject: "Order 7", Recipients: 3, Size: 1007, Verdict: "freeze", Would: "defer", Reason: "over", Trigger: "account-hour",
		Over: []Over{{Trigger: "account-hour", Watch: "account", Key: "shop", Mode: "enforce", Verdict: "freeze", Used: 300, Units: 1, Max: 300,
			Per: Period(time.Hour), Count: "recipients", FreeAt: Time{d.At.Wall.Add(10 * time.Minute)}}},
		Seq: 7, SubKey: "uid 1001", SubjectKey: "order #", HoldID: 3, EventID: 4,
	}
	finds := map[string]func() (Decision, error){
		"by number":              func() (Decision, error) { return f.DecisionBySeq(ctx, 7) },
		"by reference":           func() (Decision, error) { return f.DecisionByRef(ctx, want.Ref) },
		"by reference, capitals": func() (Decision, error) { return f.DecisionByRef(ctx, strings.ToUpper(want.Ref)) },
		"by message id":          func() (Decision, error) { return f.DecisionByMessageID(ctx, want.MessageID) },
	}
	for name, find := range finds {
		got, err := find()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", name, got, err, want)
		}
	}
	other, err := f.DecisionBySeq(ctx, 8)
	if err != nil || other.ClientIP != "192.0.2.8" || other.Mailbox != "info@shop1.example" || other.Account != "shop1" || !other.Counted {
		t.Errorf("the login's decision: got %+v, %v", other, err)
	}
	if _, err := f.DecisionBySeq(ctx, 9); !errors.Is(err, ErrNotFound) {
		t.Errorf("a number that was never given: got %v, want ErrNotFound", err)
	}
}

func TestMessageIDsOfBothLengthsAreFound(t *testing.T) {
	f := start(t, "")
	at := time.Date(2025, 11, 23, 12, 0, 0, 0, time.UTC)
	ids := []string{messageID(at, 5), messageID(at, 6)[:6] + "-00000000abc-2F0K", "garbage", "", messageID(at.Add(-3*time.Hour), 9)}
	for i, id := range ids {
		d := exampleDecision(uint64(i + 1))
		d.At.Wall = at.Add(time.Duration(i) * time.Minute)
		d.Submission.MessageID = id
		f.Append(d)
	}
	f.flush(t)
	for i, want := range []bool{true, true, false, false, false} { // the last one came later than any message takes
		d, err := f.DecisionByMessageID(context.Background(), ids[i])
		if found := err == nil && d.Seq == uint64(i+1); found != want || err != nil && !errors.Is(err, ErrNotFound) {
			t.Errorf("message %q: got number %d, %v; want found %v", ids[i], d.Seq, err, want)
		}
	}
}

func TestWhatStrangersWroteIsStoredHarmless(t *testing.T) {
	f := start(t, "")
	long := strings.Repeat("é", 70_000)
	hostile := []string{"\x00\r\n\x1b[2J", "\xff\xfe", long, "'); DROP TABLE decisions; --", "\u0085\u009b31m", ""}
	seq := uint64(0)
	for _, text := range hostile {
		for range 3 { // a text that comes again becomes a name
			seq++
			d := frozen(scriptDecision(seq, "shop"))
			d.Submission.Subject, d.Submission.EnvelopeSender, d.Submission.RecipientList = text, text, text
			d.Identity.Directory, d.Identity.Basis, d.Identity.Script, d.SubjectKey, d.Identity.Mailbox = text, text, text, text, text
			f.Append(d)
		}
	}
	f.flush(t)
	list, _, err := f.Decisions(context.Background(), DecisionFilter{})
	if err != nil || len(list) != int(seq) {
		t.Fatalf("got %d decisions, %v; want %d", len(list), err, seq)
	}
	for _, d := range list {
		for _, text := range []struct {
			is  string
			max int
		}{{d.Subject, 256}, {d.EnvelopeSender, 320}, {d.WorkingDirectory, 512}, {d.Basis, 256}, {d.SubjectKey, 256}} {
			if len(text.is) > text.max || strings.ToValidUTF8(text.is, "") != text.is || strings.ContainsAny(text.is, "\x00\r\n\x1b\u0085\u009b") {
				t.Errorf("decision %d: stored %.60q (%d bytes, at most %d)", d.Seq, text.is, len(text.is), text.max)
			}
		}
	}
	held, _, err := f.HeldList(context.Background(), HeldFilter{})
	if err != nil || len(held) != int(seq) {
		t.Errorf("got %d held messages, %v; want %d", len(held), err, seq)
	}
}

func TestNamesAreGivenToTextsThatComeAgain(t *testing.T) {
	f := start(t, "")
	for seq := uint64(1); seq <= 1000; seq++ {
		f.Append(exampleDecision(seq)) // 7 mailboxes, 1 basis, 1,000 Subjects
	}
	f.flush(t)
	if n := ask(t, f.path, "SELECT count(*) FROM names"); n < 8 || n > 30 {
		t.Errorf("got %d names; want the few texts that came again", n)
	}
	for _, seq := range []uint64{1, 2, 8, 500, 1000} {
		d, err := f.DecisionBySeq(context.Background(), seq)
		want := exampleDecision(seq)
		if err != nil || d.Mailbox != want.Identity.Mailbox || d.Basis != want.Identity.Basis || d.Subject != want.Submission.Subject || d.EnvelopeSender != want.Submission.EnvelopeSender {
			t.Errorf("decision %d: got %+v, %v", seq, d, err)
		}
	}
}

func TestNumbersAndKeyOutliveARestart(t *testing.T) {
	f := start(t, "")
	key := f.RefKey()
	f.Append(exampleDecision(41))
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	if f.Append(exampleDecision(42)) {
		t.Error("Append took a decision after the end")
	}
	if _, err := f.AddAudit(context.Background(), Audit{}); !errors.Is(err, ErrClosed) {
		t.Errorf("a write after the end: got %v, want ErrClosed", err)
	}
	if fi, err := os.Stat(f.path); err != nil || fi.Mode().Perm()&0o007 != 0 {
		t.Errorf("the database: mode %v, %v; nobody else may read it", fi.Mode(), err)
	}
	again := start(t, f.path)
	if again.RefKey() != key || again.MaxSeq() != 41 {
		t.Errorf("after a restart: key kept %v, highest number %d; want true, 41", again.RefKey() == key, again.MaxSeq())
	}
}

func TestANewerDatabaseIsRefused(t *testing.T) {
	f := start(t, "")
	f.stop()
	outside(t, f.path, "PRAGMA user_version = 99")
	if _, err := open(t, f.path); !errors.Is(err, ErrNewer) {
		t.Errorf("got %v, want ErrNewer", err)
	}
	if n := ask(t, f.path, "PRAGMA user_version"); n != 99 {
		t.Errorf("the newer database was changed: version %d", n)
	}
}

func TestAMissingFolderIsAnError(t *testing.T) {
	if _, err := open(t, filepath.Join(t.TempDir(), "missing", "osm.db")); err == nil {
		t.Error("got no error")
	}
	if _, err := open(t, "relative.db"); err == nil {
		t.Error("a relative path: got no error")
	}
}

func TestAPathMayHoldAnyCharacter(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b?mode=memory&x=%41#")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f := start(t, filepath.Join(dir, "osm.db"))
	f.Append(exampleDecision(1))
	f.flush(t)
	if fi, err := os.Stat(f.path); err != nil || fi.Size() == 0 {
		t.Errorf("the database is not where it should be: %v", err)
	}
}

func TestTheLagIsTheAgeOfWhatWaitsLongest(t *testing.T) {
	f, err := open(t, "")
	if err != nil {
		t.Fatal(err)
	}
	lag := func(what string, want time.Duration) {
		t.Helper()
		if got := time.Duration(f.Health().Lag); got != want {
			t.Errorf("%s: lag %v, want %v", what, got, want)
		}
	}
	f.now.Store(day.Add(10 * time.Second).UnixMilli())
	lag("nothing waits", 0)
	f.Append(exampleDecision(2)) // two seconds after day
	f.Append(exampleDecision(5))
	lag("two wait", 8*time.Second)
	taken := f.q.take(nil)
	f.Append(exampleDecision(9))
	lag("two were taken", 8*time.Second)
	f.q.done(taken.rows[:1])
	lag("one of them is written", 5*time.Second)
	f.q.done(taken.rows[1:])
	lag("both are written", time.Second)
	f.now.Store(day.UnixMilli())
	lag("the clock was set back", 0)
	f.run(t)
	f.flush(t)
	lag("all is written", 0)
}
