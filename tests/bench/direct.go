package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"osm/tests/lab"
)

const (
	knocksPerSecond = 1000
	// quiet is for how long nothing may use a processor until it is done with what it had.
	quiet = 300 * time.Millisecond
)

// knocking is a way to connect.
type knocking struct {
	name string
	each bool // as a process of its own each time
	stay int  // milliseconds that a connection lives
}

func knockings() []knocking {
	return []knocking{{name: "one process"}, {name: "a process each", each: true}}
}

// knocked is what n connections took, of processor time in seconds.
type knocked struct {
	n             int
	rate          float64 // connections a second that were reached
	connecting    float64
	watch, daemon float64
	counts        map[string]uint64 // how much the watch's counters rose
}

// each is the processor time for one of n connections, in microseconds.
func each(seconds float64, n uint64) float64 { return seconds * 1e6 / float64(max(n, 1)) }

// perConnecting, perWatched and perCounted are the costs of one connection for who makes it,
// for the watch and for the daemon. Strangers' connections cost as much as ours.
func (k knocked) perConnecting() float64 { return each(k.connecting, uint64(k.n)) }
func (k knocked) perWatched() float64    { return each(k.watch, k.counts["seen"]) }
func (k knocked) perCounted() float64    { return each(k.daemon, k.counts["records"]) }

// watched is a daemon with its watch. Without a source it is none.
type watched struct {
	source     string
	daemon     *lab.Daemon
	watch, osm int // processes
}

func (w *watched) stop() error {
	if w.daemon == nil {
		return nil
	}
	return w.daemon.Stop()
}

// used is the processor time of the watch and of the daemon so far.
func (w *watched) used() (watch, daemon float64, err error) {
	if w.daemon == nil {
		return 0, 0, nil
	}
	watch, err = cpuSeconds(w.watch)
	if err != nil {
		return 0, 0, err
	}
	daemon, err = cpuSeconds(w.osm)
	return watch, daemon, err
}

// settle waits until all that was seen is dealt with. A machine that never rests is measured
// as it is.
func (w *watched) settle() error {
	var last float64
	var since time.Time
	var broken error
	_ = lab.WaitFor(10*time.Second, "the watch to have nothing to do", func() error {
		watch, daemon, err := w.used()
		if broken = err; err != nil {
			return nil
		}
		if now := time.Now(); watch+daemon != last || since.IsZero() {
			last, since = watch+daemon, now
		}
		if time.Since(since) < quiet {
			return errors.New("it works")
		}
		return nil
	})
	return broken
}

// monitorStatus is the part of the daemon's status that is about connections.
type monitorStatus struct {
	Monitor struct {
		Text     string            `json:"text"`
		Source   string            `json:"source"`
		SelfTest string            `json:"self_test"`
		Counts   map[string]uint64 `json:"counts"`
	} `json:"monitor"`
}

// counts are the watch's counters.
func (w *watched) counts() (map[string]uint64, error) {
	var s monitorStatus
	if w.daemon == nil {
		return nil, nil
	}
	err := w.daemon.Document(&s, "status")
	return s.Monitor.Counts, err
}

// rose tells how much the counters rose since before, by n connections or fewer. The watch
// tells them once a second.
func (w *watched) rose(before map[string]uint64, n int) (map[string]uint64, error) {
	var now map[string]uint64
	var broken error
	_ = lab.WaitFor(1500*time.Millisecond, "all counters", func() error {
		if now, broken = w.counts(); broken != nil || now == nil {
			return nil
		}
		done := now["records"] + now["repeats"] + now["excluded"] + now["to_mta"] + now["redirected"]
		if seen := now["seen"]; seen < before["seen"]+uint64(n) || done < seen {
			return errors.New("some are missing")
		}
		return nil
	})
	if broken != nil {
		return nil, broken
	}
	for name, was := range before {
		now[name] -= was
	}
	return now, nil
}

// watchBy starts a daemon that watches by the source, "" = none, and waits until it does.
func (b *bench) watchBy(source string) (*watched, error) {
	if source == "" {
		return &watched{}, nil
	}
	b.l.Panel, b.l.Direct = "", fmt.Sprintf("source = %q", source)
	defer func() { b.l.Direct = "" }()
	if err := os.RemoveAll(filepath.Join(b.dir, "direct")); err != nil { // the last one's
		return nil, err
	}
	s, d, err := b.daemon("direct")
	if err != nil {
		return nil, err
	}
	w := &watched{source: source, daemon: d, osm: s.pid}
	err = lab.WaitFor(15*time.Second, "the source "+source, func() error {
		var s monitorStatus
		err := d.Document(&s, "status")
		if m := s.Monitor; err == nil && (m.Source != source || m.SelfTest == "") {
			err = errors.New(m.Text)
		}
		return err
	})
	if err == nil {
		w.watch, err = lab.Descendant(d.PID(), "osmd", "watch")
	}
	if err != nil {
		return nil, errors.Join(err, d.Stop())
	}
	return w, nil
}

// knock connects for as long as one measurement takes, at knocksPerSecond, and waits until
// the watch and the daemon are done with it.
func (b *bench) knock(w *watched, how knocking) (knocked, error) {
	k := knocked{n: int(b.o.seconds * knocksPerSecond)}
	before, err := w.counts()
	if err != nil {
		return k, err
	}
	if err := w.settle(); err != nil {
		return k, err
	}
	watch, daemon, err := w.used()
	if err != nil {
		return k, err
	}
	if err := b.connect(&k, how); err != nil {
		return k, err
	}
	if err := w.settle(); err != nil {
		return k, err
	}
	if k.watch, k.daemon, err = w.used(); err != nil {
		return k, err
	}
	k.watch, k.daemon = k.watch-watch, k.daemon-daemon
	k.counts, err = w.rose(before, k.n)
	return k, err
}

func (b *bench) connect(k *knocked, how knocking) error {
	limit := time.Duration(b.o.seconds*10)*time.Second + time.Minute
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	uid := strconv.Itoa(b.l.UID("shop"))
	args := []string{lab.FarIPv4, "25", strconv.Itoa(k.n), strconv.Itoa(knocksPerSecond), strconv.Itoa(how.stay), uid + ":" + uid}
	if how.each {
		args = append(args, "each")
	}
	cmd := exec.CommandContext(ctx, b.o.bin+"/knock", args...)
	cmd.Dir, cmd.Stderr = b.l.HomeOf("shop"), os.Stderr
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	k.rate = float64(k.n) / time.Since(began).Seconds()
	k.connecting = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds() // with its children's
	return nil
}

// prepareDirect makes the other host, which has a mail server, and tells which sources can
// be used here.
func (b *bench) prepareDirect() (far *lab.Far, sources []string, err error) {
	if err := b.prepare(1000); err != nil {
		return nil, nil, err
	}
	// Where systemd runs tracefs is there already; this mount is our own namespace's.
	_ = syscall.Mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, "")
	if far, err = lab.NewFar(); err != nil {
		return nil, nil, err
	}
	if err := far.MailServers(25); err != nil {
		far.Close()
		return nil, nil, err
	}
	for _, source := range []string{"ebpf", "packet"} {
		w, err := b.watchBy(source)
		if err == nil {
			err = w.stop()
			sources = append(sources, source)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: not measured here: %s: %v\n", source, err)
		}
	}
	return far, sources, nil
}

// watchCosts are the samples of one source, "" = nobody watches.
type watchCosts struct {
	knocked           map[string][]knocked // by the name of the way
	send, rate, share sample
}

// pick makes a sample of one way's figure.
func (c *watchCosts) pick(way string, f func(knocked) float64) sample {
	var out sample
	for _, k := range c.knocked[way] {
		out = append(out, f(k))
	}
	return out
}

// direct measures what the watch of the back door costs: for each connection that it is for,
// and for traffic that is none of its business. Nobody else may connect to mail servers
// meanwhile: ebpf sees the whole machine.
func (b *bench) direct() ([]figure, error) {
	far, sources, err := b.prepareDirect()
	if err != nil {
		return nil, err
	}
	defer far.Close()
	t, err := newTraffic(far)
	if err != nil {
		return nil, err
	}
	defer t.close()
	sources = append([]string{""}, sources...)
	costs := map[string]*watchCosts{}
	for _, source := range sources {
		costs[source] = &watchCosts{knocked: map[string][]knocked{}}
	}
	for round := range b.o.rounds {
		for i := range sources {
			source := sources[(i+round)%len(sources)] // nobody is always first
			if err := b.directOnce(source, t, costs[source]); err != nil {
				return nil, fmt.Errorf("source %q: %w", source, err)
			}
		}
	}
	var figures []figure
	for _, way := range knockings() {
		figures = append(figures, knockFigures(way.name, sources, costs)...)
	}
	return append(figures, trafficFigures(sources, costs)...), nil
}

func (b *bench) directOnce(source string, t *traffic, c *watchCosts) error {
	w, err := b.watchBy(source)
	if err != nil {
		return err
	}
	err = b.directMeasured(w, t, c)
	return errors.Join(err, w.stop())
}

func (b *bench) directMeasured(w *watched, t *traffic, c *watchCosts) error {
	if err := w.settle(); err != nil { // it has just started
		return err
	}
	if err := t.measure(w, b.o.seconds, c); err != nil {
		return err
	}
	for _, way := range knockings() {
		k, err := b.knock(w, way)
		if err != nil {
			return err
		}
		c.knocked[way.name] = append(c.knocked[way.name], k)
	}
	return nil
}

func knockFigures(way string, sources []string, costs map[string]*watchCosts) []figure {
	const anchor = "CPU of connecting, no watch"
	alone := costs[""].pick(way, knocked.perConnecting)
	figures := []figure{{"CPU of connecting, " + way + ", no watch", "-", alone, " µs", "", 0, false}}
	for _, source := range sources[1:] {
		c, what := costs[source], ", "+way+", "+source
		watch := c.pick(way, knocked.perWatched)
		figures = append(figures, []figure{
			{"CPU of osmd watch per connection" + what, "-", watch, " µs", "", 0, false},
			{"CPU of osmd per connection" + what, "-", c.pick(way, knocked.perCounted), " µs", "", 0, false},
			{"CPU of osmd watch" + what, anchor, ratios(watch, alone), "", "", 0, false},
			{"CPU of connecting" + what, anchor, ratios(c.pick(way, knocked.perConnecting), alone), "", "", 0, false},
			{"connections made" + what, "1,000/s", c.pick(way, func(k knocked) float64 { return k.rate / knocksPerSecond }), "", "", 0, false},
		}...)
	}
	return figures
}
