package store

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"osm/policy"
)

const million = 1_000_000

// traffic makes decisions as a server of 10,000 accounts does: half of the mail written
// by people with Subjects of their own, half by programs that repeat theirs; one in fifty
// stopped.
type traffic struct {
	r        *rand.Rand
	accounts int
	span     time.Duration
	of       int
}

func (g *traffic) decision(seq uint64) *policy.Decision {
	n := g.r.IntN(g.accounts)
	account := fmt.Sprintf("acct%05d", n)
	at := day.Add(time.Duration(int64(g.span) / int64(g.of) * int64(seq)))
	d := &policy.Decision{
		Seq: seq, At: policy.Moment{Wall: at, Boot: policy.BootShift + at.Sub(day).Milliseconds()}, Counted: true,
		Identity: policy.Identity{Account: account},
		Submission: &policy.Submission{
			MessageID: messageID(at, seq), Recipients: 1 + int(seq%3), Size: int64(2000 + g.r.IntN(60_000)),
			EnvelopeSender: fmt.Sprintf("info@shop%05d.example", n),
		},
	}
	id, s := &d.Identity, d.Submission
	if seq%2 == 0 {
		id.Source, id.Mailbox, id.IPClass = policy.SourceLogin, fmt.Sprintf("info@shop%05d.example", n), policy.IPLogin
		id.Basis = "SMTP AUTH as " + id.Mailbox
		id.ClientIP = netip.AddrFrom4([4]byte{203, 0, byte(n), byte(n >> 8)})
		s.Subject = fmt.Sprintf("Re: offer %d of %x, as discussed", g.r.IntN(1e6), g.r.IntN(1<<20))
		d.SubjectKey = "re: offer # of *, as discussed"
	} else {
		id.Source, id.Basis = policy.SourceScript, fmt.Sprintf("uid %d", 1000+n)
		id.Directory, id.DirectoryAccount = "/home/"+account+"/public_html/contact", account
		id.Script = id.Directory + "/mailer.php"
		s.Subject, d.SubjectKey = "Your order has arrived", "your order has arrived"
	}
	if seq%50 == 0 {
		d.Counted, d.Verdict, d.Reason, d.Trigger = false, policy.Defer, policy.ReasonOver, "account-hour"
		d.Over = []policy.Over{{Trigger: "account-hour", Key: account, Mode: policy.Enforce, Max: 300, Per: time.Hour, Used: 300, Units: 1, FreeAt: at.Add(time.Minute)}}
	}
	return d
}

// fill stores n decisions as fast as they are taken.
func fill(b testing.TB, f *fixture, g *traffic, n int) {
	for seq := uint64(1); seq <= uint64(n); {
		if rows, _, _ := f.q.depth(); rows > queueRows/2 {
			f.flush(b)
		}
		for range 1000 {
			f.Append(g.decision(seq))
			seq++
		}
	}
	f.flush(b)
	if h := f.Health(); h.Dropped != 0 || h.Written != uint64(n) {
		b.Fatalf("%d written and %d dropped of %d", h.Written, h.Dropped, n)
	}
}

func newTraffic(of int) *traffic {
	return &traffic{r: rand.New(rand.NewPCG(1, 2)), accounts: 10_000, span: 24 * time.Hour, of: of}
}

// BenchmarkPack is what [Store.Append] costs its caller, beside a lock.
func BenchmarkPack(b *testing.B) {
	g := newTraffic(million)
	ds := make([]*policy.Decision, 1000)
	for i := range ds {
		ds[i] = g.decision(uint64(i + 1))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		pack(ds[i%len(ds)])
	}
}

// BenchmarkWrite is the writer alone: rows/s and MiB per million rows, in batches of 1,000.
func BenchmarkWrite(b *testing.B) {
	f, err := open(b, "")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	ctx, g := context.Background(), newTraffic(million)
	const parts = 20
	var took time.Duration
	var rows uint64
	for b.Loop() {
		for range parts {
			l := load{rows: make([]row, batchRows)}
			for i := range l.rows {
				rows++
				l.rows[i] = pack(g.decision(rows))
			}
			began := time.Now()
			if err := f.w.write(&l); err != nil {
				b.Fatal(err)
			}
			took += time.Since(began)
		}
		began := time.Now()
		f.checkpoint(ctx)
		took += time.Since(began)
	}
	b.ReportMetric(float64(rows)/took.Seconds(), "rows/s")
	b.ReportMetric(float64(sizeOf(f.path))/(1<<20)/float64(rows)*million, "MiB/million")
}

// BenchmarkAppend is the whole way through the queue to the disk, sustained: rows/s, with
// one goroutine that appends as fast as the writer writes.
func BenchmarkAppend(b *testing.B) {
	f := start(b, "", func(o *Options) { o.Log = newLog(io.Discard) })
	g := newTraffic(million)
	ds := make([]*policy.Decision, 100_000)
	for i := range ds {
		ds[i] = g.decision(uint64(i + 1))
	}
	seq, began := uint64(0), time.Now()
	for b.Loop() {
		for _, d := range ds {
			seq++
			d.Seq = seq
			for rows, _, _ := f.q.depth(); seq%1000 == 0 && rows > queueRows/2; rows, _, _ = f.q.depth() {
				f.flush(b)
			}
			if !f.Append(d) {
				b.Fatal("Append refused a decision")
			}
		}
	}
	f.flush(b)
	b.ReportMetric(float64(seq)/time.Since(began).Seconds(), "rows/s")
}

// BenchmarkOpen is a start with a million decisions.
func BenchmarkOpen(b *testing.B) {
	f := full(b)
	f.stop()
	for b.Loop() {
		again, err := open(b, f.path)
		if err != nil {
			b.Fatal(err)
		}
		again.Close()
	}
}

// full opens a database with a million decisions of one day; it is made once and kept in
// the folder OSM_BENCH_DIR if that is set.
func full(b *testing.B) *fixture {
	b.Helper()
	dir := os.Getenv("OSM_BENCH_DIR")
	if dir == "" {
		dir = b.TempDir()
	}
	path := filepath.Join(dir, "million.db")
	_, err := os.Stat(path)
	f := start(b, path, func(o *Options) { o.Log = newLog(io.Discard) })
	if err != nil {
		fill(b, f, newTraffic(million), million)
	}
	return f
}

// BenchmarkTop is the report of who sent most, of a day with a million decisions.
func BenchmarkTop(b *testing.B) {
	f := full(b)
	ctx := context.Background()
	for _, since := range []struct {
		name string
		at   time.Time
	}{{"day", day.Add(5 * time.Minute)}, {"hour", day.Add(22*time.Hour + 50*time.Minute)}} {
		b.Run(since.name, func(b *testing.B) {
			for b.Loop() {
				top, err := f.Top(ctx, TopFilter{Since: since.at, By: "recipients", Limit: 20})
				if err != nil || len(top.Items) != 20 {
					b.Fatal(len(top.Items), err)
				}
			}
		})
	}
	b.Run("histogram", func(b *testing.B) {
		for b.Loop() {
			if list, err := f.Histogram(ctx, day, 10*time.Minute); err != nil || len(list) < 144 {
				b.Fatal(len(list), err)
			}
		}
	})
}

// BenchmarkReplay hands a million decisions back to the counters.
func BenchmarkReplay(b *testing.B) {
	f := full(b)
	now := policy.Moment{Wall: day.Add(25 * time.Hour), Boot: policy.BootShift + (25 * time.Hour).Milliseconds()}
	rows, began := 0, time.Now()
	for b.Loop() {
		err := f.ReplaySince(context.Background(), 0, day, now, func(*Counted) error { rows++; return nil })
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(rows)/time.Since(began).Seconds(), "rows/s")
}

// BenchmarkFind finds single decisions among a million.
func BenchmarkFind(b *testing.B) {
	f := full(b)
	ctx := context.Background()
	b.Run("reference", func(b *testing.B) {
		for i := uint64(0); b.Loop(); i++ {
			if _, err := f.DecisionByRef(ctx, policy.RefOf(i*7919%million+1, f.RefKey())); err != nil {
				b.Fatal(err)
			}
		}
	})
	g := newTraffic(million)
	b.Run("message id", func(b *testing.B) {
		for i := uint64(0); b.Loop(); i++ {
			if _, err := f.DecisionByMessageID(ctx, g.decision(i*7919%million+1).Submission.MessageID); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("messages of an account", func(b *testing.B) {
		for b.Loop() {
			k := Filled{Watch: policy.WatchAccount, Account: "acct00042"}
			if list, err := f.MessagesThatFilled(ctx, k, day, day.Add(24*time.Hour), 50); err != nil || len(list) == 0 {
				b.Fatal(len(list), err)
			}
		}
	})
}
