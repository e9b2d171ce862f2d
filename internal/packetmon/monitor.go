package packetmon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"osm/internal/origin"
	"osm/policy"
)

// What [Options.Source] may be besides the name of a source.
const (
	SourceAuto = "auto" // the best that can be opened; "" is the same
	SourceOff  = "off"  // none
)

// Opener is a source that can be tried.
type Opener struct {
	Name string // SourceEBPF, SourcePacket or SourcePoll
	Open func() (Source, error)
}

// Options says what a [Monitor] watches and whom it passes over.
type Options struct {
	Ports   []uint16 // the mail ports, as the openers have them
	Source  string   // SourceAuto, SourceOff, or the one source to use
	Openers []Opener // the best first
	Exim    string   // Exim's program, an absolute path; "" = there is none
	// Excluded tells the users whose connections are no bypass: Exim's own, the panel's, and
	// root if root is. A listener of theirs, or of root's, is this host's mail server. It is
	// asked for each connection, by several goroutines, and may change its mind; nil = nobody.
	Excluded func(uid uint32) bool
	Clock    func() policy.Moment
	Boot     func() int64 // CLOCK_BOOTTIME in nanoseconds, which Seen.At is of
	Log      *slog.Logger
}

// Monitor watches the connections of this host by the best source there is. It is safe for
// concurrent use.
type Monitor struct {
	opt       Options
	diag      *origin.Diag
	processes *origin.Processes
	own       *ownAddresses
	mtas      *mailServers
	repeats   *repeats // the active source's goroutine's, as are the searches
	searches  perSecond
	events    chan sighting
	out       *outbox
	count     counters
	hour      *lastHour
	probe     atomic.Pointer[probe] // of the test that runs
	glimpses  atomic.Int32          // processes held open
	hidden    atomic.Bool           // a process could not be read in full
	stuckAt   atomic.Int64          // boot time when reads of memory were found to hang
	retry     time.Duration         // until better sources are tried again
	// refusedAll: none of the sources could be opened, once at least.
	refusedAll atomic.Bool

	mu       sync.Mutex
	active   Source // nil = none
	lost     uint64 // by the sources before
	refused  map[string]string
	rights   []string // problems with what we may read
	selfTest string
	testErr  error
	diagErr  error
}

// counters are the ones of [Counts] that are counted here.
type counters struct {
	seen, records, repeats, excluded, toMTA, redirected                  atomic.Uint64
	uidUnknown, tooLate, processUnknown, skipped, forgot, unheld, faults atomic.Uint64
}

// retryTime is how long a source that failed is left alone.
const retryTime = time.Minute

// New returns a monitor that watches once [Monitor.Run] runs. It fails if the source that is
// to be used is none of the openers.
func New(o Options) (*Monitor, error) {
	if o.Source == "" {
		o.Source = SourceAuto
	}
	if o.Excluded == nil {
		o.Excluded = func(uint32) bool { return false }
	}
	if o.Source != SourceAuto && o.Source != SourceOff {
		i := slices.IndexFunc(o.Openers, func(p Opener) bool { return p.Name == o.Source })
		if i < 0 {
			return nil, fmt.Errorf("watch connections by %.40q: no such source", o.Source)
		}
		o.Openers = o.Openers[i : i+1]
	}
	m := &Monitor{
		opt: o, diag: origin.NewDiag(), own: &ownAddresses{boot: o.Boot}, repeats: newRepeats(maxRepeats), searches: perSecond{limit: maxSearches},
		events: make(chan sighting, maxEvents), out: newOutbox(), hour: &lastHour{}, retry: retryTime, refused: map[string]string{},
	}
	m.processes = origin.NewProcesses(o.Exim, func(error) { m.stuckAt.Store(o.Boot()) })
	m.mtas = &mailServers{diag: m.diag, holders: m.processes.Holders, exim: o.Exim, excluded: o.Excluded, boot: o.Boot,
		kinds: map[origin.Socket]listenerKind{}}
	return m, nil
}

// Run watches until ctx ends, whatever becomes of the sources; it is called once. What it
// finds waits for [Monitor.Next] or [Serve].
func (m *Monitor) Run(ctx context.Context) error {
	// The worker ends last, so that what a source saw is handed on.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	var working, keeping sync.WaitGroup
	working.Go(func() { newWorker(m).run(work) })
	keeping.Go(func() { m.keep(ctx) })
	if m.opt.Source == SourceOff {
		<-ctx.Done()
	} else {
		m.watchAll(ctx)
	}
	keeping.Wait()
	stop()
	working.Wait()
	if err := m.diag.Close(); err != nil {
		return fmt.Errorf("end the watch: %w", err)
	}
	return nil
}

// Next waits for the next record, which is handed out once, and fails when ctx ends.
func (m *Monitor) Next(ctx context.Context) (Record, error) { return m.out.next(ctx) }

// watchAll uses one source after the other: the best that can be opened, the next when that
// one fails, a better one when it can be opened again.
func (m *Monitor) watchAll(ctx context.Context) {
	var source Source
	since := int64(0)
	for from := 0; ctx.Err() == nil; {
		at := from
		if source == nil {
			source, at = m.open(from, len(m.opt.Openers))
		}
		if source == nil {
			m.refusedAll.Store(true)
			m.wait(ctx)
			from = 0
			continue
		}
		source, from = m.watch(ctx, source, at, since)
		// What a better one has seen since it was opened was told by the other one until now.
		since = m.opt.Boot()
	}
	if source != nil {
		m.close(source)
	}
}

// wait waits until it is time to try again.
func (m *Monitor) wait(ctx context.Context) {
	timer := time.NewTimer(m.retry)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// open opens the first of the openers from..to that lets itself be opened, and tells which.
func (m *Monitor) open(from, to int) (Source, int) {
	for i := from; i < to; i++ {
		o := m.opt.Openers[i]
		source, err := o.Open()
		m.refuse(o.Name, err)
		if err == nil {
			return source, i
		}
	}
	return nil, to
}

// refuse notes why a source is not used, or with nil that nothing is wrong with it.
func (m *Monitor) refuse(name string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		delete(m.refused, name)
		return
	}
	text := legible(err.Error(), maxStatusText)
	if m.refused[name] != text {
		m.opt.Log.Warn("source of connections not used", "source", name, "err", text)
	}
	m.refused[name] = text
}

func (m *Monitor) close(s Source) {
	if err := s.Close(); err != nil {
		m.opt.Log.Warn("source of connections not closed", "source", s.Name(), "err", err)
	}
}

// watch runs the source until it fails, or a better one can be opened, or ctx ends. It
// returns the better one with its place, or from which place on to look for another one.
func (m *Monitor) watch(ctx context.Context, s Source, at int, since int64) (better Source, place int) {
	w := &watcher{m: m, name: s.Name(), since: since}
	m.activate(s)
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	var testing sync.WaitGroup
	go func() { ended <- s.Run(running, w.see) }()
	testing.Go(func() { m.testAgain(running, s) })
	better, place, err := m.untilBetter(at, ended)
	cancel()
	testing.Wait()
	if better != nil {
		err = <-ended
	}
	m.activate(nil)
	m.addLost(s.Lost())
	if better == nil && ctx.Err() == nil {
		if err == nil {
			err = errors.New("it ended by itself")
		}
		m.refuse(m.opt.Openers[at].Name, fmt.Errorf("failed while it ran: %w", err))
		place = at + 1
	}
	return better, place
}

// untilBetter waits until the source has ended, or one before place at can be opened.
func (m *Monitor) untilBetter(at int, ended <-chan error) (Source, int, error) {
	ticker := time.NewTicker(m.retry)
	defer ticker.Stop()
	for {
		select {
		case err := <-ended:
			return nil, at, err
		case <-ticker.C:
			if better, place := m.open(0, at); better != nil {
				return better, place, nil
			}
		}
	}
}

// activate makes s the one that is told about, and looks what we may read.
func (m *Monitor) activate(s Source) {
	m.hidden.Store(false)
	var rights []string
	if s != nil {
		rights = lookRights(s.Name() != SourceEBPF)
		m.opt.Log.Info("connections are watched", "source", s.Name())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.active, m.rights, m.selfTest, m.testErr = s, rights, "", nil
}

func (m *Monitor) addLost(n uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lost += n
}

// asked notes whether the kernel answers about sockets.
func (m *Monitor) asked(err error) {
	if errors.Is(err, origin.ErrNotFound) {
		err = nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.diagErr = err
}

func (m *Monitor) ours(port uint16) bool { return slices.Contains(m.opt.Ports, port) }

func (m *Monitor) excluded(uid uint32) bool { return m.opt.Excluded(uid) }

// wall returns the time of day of a boot time.
func (m *Monitor) wall(boot int64) time.Time {
	ago := max(m.opt.Boot()-boot, 0)
	return m.opt.Clock().Wall.Add(-time.Duration(ago)).Truncate(time.Millisecond).UTC()
}

// minute numbers the minutes since boot.
func (m *Monitor) minute() int64 { return m.opt.Boot() / int64(time.Minute) }
