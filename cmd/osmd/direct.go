package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"osm/internal/control"
	"osm/internal/packetmon"
	"osm/policy"
)

// watchAway is for how long the watch may be silent before it is said to be away: it tells
// how it is every second.
const watchAway = 5 * time.Second

// backDoor is what is known of the part that sees connections bypass Exim.
type backDoor struct {
	off bool // by the configuration
	// What follows up to the lock is for the one goroutine that follows the watch. spoke is the
	// second, since boot, in which a connection that was over was logged last, and unsaid how
	// many were not since: whoever connects in a loop must not fill the log.
	spoke  int64
	unsaid int
	// spent is, by account, the boot time in milliseconds at which it may have as many kept as
	// at the beginning.
	spent map[string]int64

	mu     sync.Mutex // guards what follows
	status packetmon.Status
	counts map[string]uint64 // of status, by their names in its JSON; made anew each time
	heard  int64             // boot time of the last status, in milliseconds; 0 = none yet
	gone   error             // why the watch cannot be reached
	level  packetmon.Level
	bad    uint64 // lines that were none of the watch's
}

// followWatch has each connection that the watch saw judged, until ctx ends.
func (d *daemon) followWatch(ctx context.Context) error {
	if d.back.off {
		<-ctx.Done()
		return nil
	}
	return packetmon.Follow(ctx, d.cfg.Server.WatchSocket, packetmon.FollowOptions{
		Record: d.connection, Status: d.watchSays, Gone: d.watchGone,
		Skipped: func(err error) {
			d.back.mu.Lock()
			d.back.bad++
			first := d.back.bad == 1
			d.back.mu.Unlock()
			if first {
				d.log.Warn("a line of the watch was passed over", "component", "watch", "err", err)
			}
		},
	})
}

// connection has one connection counted. It has happened: nothing waits for the answer. A
// fault of ours costs this one and no message.
func (d *daemon) connection(r packetmon.Record) {
	defer func() {
		if p := recover(); p != nil {
			d.log.Error("panic while a connection was counted", "component", "watch", "err", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	s := &policy.Submission{CallerUID: -1, Direct: &r.Connection}
	id := policy.IdentifyConnection(s.Direct, d.panel.Map())
	dec := d.engine.Check(d.seenAt(r.At), s, id)
	d.witnesses.see(d.stopping, dec, s.Direct.Chain)
	d.flow.decided[dec.Verdict][id.Source].Inc()
	d.logConnection(dec)
	d.record(dec)
}

// stillOpen reports whether the process that made a connection has it still.
func (f *flow) stillOpen(ctx context.Context, c *policy.Connection) bool {
	if len(c.Chain) == 0 || !c.UIDKnown {
		return false
	}
	o, err := f.diag.OutgoingOwner(c.Local, c.Remote, func() bool { return false })
	if err != nil || o.UID != c.UID || o.Inode == 0 {
		return false
	}
	p, err := f.inspector.Owner(ctx, o.UID, o.Inode)
	return err == nil && p.PID == c.Chain[0].PID && p.Started == c.Chain[0].Started
}

// maxLate bounds how old a record is taken for: the watch keeps what it sees while nobody
// follows, and a clock that was set must not move it out of every window.
const maxLate = 10 * time.Minute

// seenAt is the moment at which the watch saw a connection.
func (d *daemon) seenAt(at time.Time) policy.Moment {
	now := d.clock()
	return now.Add(-min(max(now.Wall.Sub(at), 0), maxLate))
}

// Connections cost next to nothing, so of an account so many are kept at once, and then one
// each so often; the others are counted, judged and added up, and not kept: a program that
// connects in a loop must not fill the disk.
const (
	keptAtOnce  = 100_000
	keptEvery   = time.Second
	maxAccounts = 4096 // that are told apart
)

// keeps reports whether a connection is kept. One that opens an event always is.
func (b *backDoor) keeps(dec *policy.Decision, changes []policy.EventChange) bool {
	if slices.ContainsFunc(changes, func(c policy.EventChange) bool { return c.New }) {
		return true
	}
	if b.spent == nil || len(b.spent) >= maxAccounts {
		b.spent = map[string]int64{}
	}
	now := dec.At.Boot
	until := max(b.spent[dec.Identity.Account], now) + keptEvery.Milliseconds()
	if until-now > keptAtOnce*keptEvery.Milliseconds() {
		return false
	}
	b.spent[dec.Identity.Account] = until
	return true
}

// logConnection writes a line for a connection that is over, one in a second at most, and for
// each one at level debug.
func (d *daemon) logConnection(dec *policy.Decision) {
	level, unsaid := slog.LevelDebug, 0
	if len(dec.Over) > 0 {
		if second := d.clock().Boot / 1000; second != d.back.spoke {
			level, unsaid = slog.LevelInfo, d.back.unsaid
			d.back.spoke, d.back.unsaid = second, 0
		} else {
			d.back.unsaid++
		}
	}
	ctx := context.Background()
	if !d.log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("ref", dec.Ref), slog.String("account", dec.Identity.Account), slog.String("reason", dec.Reason.String()),
		slog.String("destination", dec.Submission.Direct.Remote.String()),
	}
	if dec.Trigger != "" {
		attrs = append(attrs, slog.String("trigger", dec.Trigger))
	}
	for i := range dec.Over {
		if o := &dec.Over[i]; o.Trigger == dec.Trigger {
			attrs = append(attrs, slog.Int64("used", o.Used), slog.Int64("max", o.Max))
		}
	}
	if unsaid > 0 {
		attrs = append(attrs, slog.Int("more_over_since_the_last", unsaid))
	}
	d.log.LogAttrs(ctx, level, "connection past exim", attrs...)
}

// watchSays takes what the watch tells of itself. A change of its level is logged once.
func (d *daemon) watchSays(s packetmon.Status) {
	b := &d.back
	counts := countsOf(&s)
	b.mu.Lock()
	changed := b.level != s.Level
	b.status, b.counts, b.level, b.heard, b.gone = s, counts, s.Level, d.clock().Boot, nil
	b.mu.Unlock()
	if !changed {
		return
	}
	level := slog.LevelInfo
	if s.Level != packetmon.LevelOK {
		level = slog.LevelWarn
	}
	d.log.Log(context.Background(), level, "connections past exim", "component", "watch", "source", s.Source, "level", string(s.Level), "problems", strings.Join(s.Problems, "; "))
}

func (d *daemon) watchGone(err error) {
	d.back.mu.Lock()
	d.back.gone = err
	d.back.mu.Unlock()
	d.log.Warn("the watch cannot be reached", "component", "watch", "err", err)
}

// count is one of the watch's counters.
func (b *backDoor) count(name string) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.counts[name]
}

func countsOf(s *packetmon.Status) map[string]uint64 {
	out := map[string]uint64{}
	if raw, err := json.Marshal(s.Counts); err == nil {
		_ = json.Unmarshal(raw, &out) // numbers, which were written a moment ago
	}
	return out
}

// monitorPart tells how connections past Exim are seen.
func (d *daemon) monitorPart() control.Monitor {
	b := &d.back
	if b.off {
		return control.Monitor{Part: control.Part{OK: true, Text: "switched off (direct.source): connections that bypass Exim are not seen"}, Source: packetmon.SourceOff, Level: string(packetmon.LevelOff)}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	away := b.heard == 0 || d.clock().Boot-b.heard > watchAway.Milliseconds()
	if away || b.gone != nil {
		m := control.Monitor{Source: packetmon.SourceOff, Level: string(packetmon.LevelOff)}
		m.Text = "osmd watch does not answer: connections that bypass Exim are not seen"
		if b.gone != nil {
			m.Text += ": " + b.gone.Error()
		}
		return m
	}
	s := &b.status
	m := control.Monitor{Source: s.Source, Level: string(s.Level), Problems: s.Problems, Unseen: s.Unseen, SelfTest: s.SelfTest, Counts: b.counts}
	for _, r := range s.Better {
		m.Better = append(m.Better, control.RefusedSource{Name: r.Name, Error: r.Error})
	}
	m.OK = s.Level == packetmon.LevelOK
	m.Text = fmt.Sprintf("sees connections by %s: %d so far", s.Source, s.Counts.Records)
	if s.Level == packetmon.LevelOff {
		m.Text = "sees no connections"
	}
	if len(s.Problems) > 0 {
		m.Text += "; " + strings.Join(s.Problems, "; ")
	}
	return m
}

// lookAtWatch raises an alarm while nothing is seen of what bypasses Exim, or while some of
// it is lost. That a lesser source is used is no alarm: "osmctl status" tells it.
func (d *daemon) lookAtWatch() {
	text := ""
	if m := d.monitorPart(); !d.back.off && m.Level == string(packetmon.LevelOff) && d.clock().Wall.Sub(d.started) > watchAway {
		text = m.Text
	}
	d.alarms.set("monitor", text)
	d.rising("monitor-lost", d.back.count("lost")+d.back.count("dropped"), "connections that bypass Exim came faster than they could be read: %d were not counted so far")
}
