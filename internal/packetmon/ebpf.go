package packetmon

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/perf"
	"golang.org/x/sys/unix"
)

const (
	// ringSize holds about 2,700 events for each CPU. It is half of what the kernel lets a
	// user without CAP_IPC_LOCK map for each CPU (perf_event_mlock_kb).
	ringSize = 256 << 10
	// maxBatch is how many events are put in order at once. Where more come in while they
	// are read, an outcome may be told before its connection.
	maxBatch = 32768
)

// EBPFOptions are what [OpenEBPF] needs.
type EBPFOptions struct {
	// Ports are the remote ports to watch, at least one and 64 at most.
	Ports []uint16
	// Boot reads CLOCK_BOOTTIME, in nanoseconds.
	Boot func() int64

	tracefs string // instead of where it is mounted
	ring    int    // bytes, instead of ringSize
}

// EBPF is the source that the kernel tells of each connection while the process that
// connects is running: uid and process are certain, however short it lives. It also tells
// what became of each connection, as a [Seen] with the same Socket and without uid and
// process. It sees the whole machine, with all network namespaces and containers.
//
// It needs Linux 4.16, tracefs, and CAP_BPF and CAP_PERFMON or, before Linux 5.8,
// CAP_SYS_ADMIN.
type EBPF struct {
	boot   func() int64
	asleep int64 // Run's: nanoseconds that the machine has slept since it was started
	secret [16]byte
	reader *perf.Reader

	lost   atomic.Uint64 // by a ring's own count, outcomes included
	unread atomic.Uint64 // events that made no sense

	mu       sync.Mutex // what follows
	closed   bool
	unsent   uint64 // as last read from the map of that name
	maps     programMaps
	programs []*ebpf.Program
	taps     []int // perf events: while they are open the programs run
}

// OpenEBPF loads and attaches the programs: from then on connections are seen, and kept
// until Run reads them. Errors are sentences that say what is missing.
func OpenEBPF(o EBPFOptions) (*EBPF, error) {
	e := &EBPF{boot: o.Boot}
	_, _ = rand.Read(e.secret[:]) // never fails
	if err := e.open(o); err != nil {
		_ = e.Close() // what had been opened; the error tells why it was not all
		return nil, fmt.Errorf("ebpf: %w", err)
	}
	return e, nil
}

func (e *EBPF) open(o EBPFOptions) error {
	if len(o.Ports) == 0 {
		return errors.New("no port to watch was given")
	}
	if inContainer() {
		return errors.New("this is a container: the kernel would tell the host's connections, by the host's process ids")
	}
	tracefs := o.tracefs
	if tracefs == "" {
		var err error
		if tracefs, err = findTracefs(tracefsPlaces()); err != nil {
			return err
		}
	}
	state, err := readFormat(tracefs, "sock", "inet_sock_set_state")
	if err != nil {
		return err
	}
	layout, err := state.stateLayout()
	if err != nil {
		return fmt.Errorf("tracepoint sock:inet_sock_set_state: %w", err)
	}
	reset, err := readFormat(tracefs, "tcp", "tcp_receive_reset")
	if err != nil {
		return err
	}
	socket, _, err := reset.number("skaddr", asm.DWord)
	if err != nil {
		return fmt.Errorf("tracepoint tcp:tcp_receive_reset: %w", err)
	}
	if err := e.makeMaps(o.Ports); err != nil {
		return err
	}
	// First the one that the other relies on.
	for _, spec := range []*ebpf.ProgramSpec{resetProgram(socket, e.maps), stateProgram(layout, e.maps)} {
		program, err := ebpf.NewProgram(spec)
		if err != nil {
			return refused("load the program "+spec.Name, err)
		}
		e.programs = append(e.programs, program)
	}
	if e.reader, err = perf.NewReader(e.maps.events, cmp.Or(o.ring, ringSize)); err != nil {
		return refused("make the rings", err)
	}
	for i, id := range []uint64{reset.id, state.id} {
		if err := e.attach(id, e.programs[i]); err != nil {
			return err
		}
	}
	return nil
}

// inContainer reports whether process ids are other ones here than the programs see. The
// kernel's first namespace of them has a fixed number.
func inContainer() bool {
	ns, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && ns != "pid:[4026531836]"
}

// makeMaps makes the maps and fills in the ports.
func (e *EBPF) makeMaps(ports []uint16) error {
	// Before Linux 5.11 maps count as locked memory, of which a process may have little. The
	// library's function for this makes a map whenever a program that links it is started.
	little := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	into := [...]**ebpf.Map{&e.maps.ports, &e.maps.connecting, &e.maps.events, &e.maps.unsent}
	for i, spec := range mapSpecs() {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			err = refused("make the map "+spec.Name, err)
			if little != nil && errors.Is(err, unix.EPERM) {
				err = fmt.Errorf("%w; before Linux 5.11 also LimitMEMLOCK=infinity", err)
			}
			return err
		}
		*into[i] = m
	}
	for _, port := range ports {
		if err := e.AddPort(port); err != nil {
			return err
		}
	}
	return nil
}

// attach has the kernel run a program at a tracepoint. The perf event is a plain file
// descriptor of ours: a handle that the garbage collector may close would take the program
// off without a word.
func (e *EBPF) attach(tracepoint uint64, program *ebpf.Program) error {
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: tracepoint, Size: unix.PERF_ATTR_SIZE_VER0}
	// Whichever CPU is named, the program runs on all.
	tap, err := unix.PerfEventOpen(&attr, -1, 0, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return refused("open the tracepoint", err)
	}
	e.taps = append(e.taps, tap)
	if err := unix.IoctlSetInt(tap, unix.PERF_EVENT_IOC_SET_BPF, program.FD()); err != nil {
		return refused("attach a program", err)
	}
	if err := unix.IoctlSetInt(tap, unix.PERF_EVENT_IOC_ENABLE, 0); err != nil {
		return refused("start a program", err)
	}
	return nil
}

// refused says what was tried and, where that helps, what it takes.
func refused(what string, err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) && !isVerdict(err) { // without what the library makes of it
		err = errno
	}
	switch err {
	case unix.EPERM, unix.EACCES:
		return fmt.Errorf("%s: %w (needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN)", what, err)
	case unix.ENOSYS:
		return fmt.Errorf("%s: %w (the kernel is built without it, or a filter of system calls keeps it away)", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// isVerdict reports whether the kernel looked at the program and found it bad.
func isVerdict(err error) bool {
	var verdict *ebpf.VerifierError
	return errors.As(err, &verdict) && len(verdict.Log) > 0
}

// Name is SourceEBPF.
func (e *EBPF) Name() string { return SourceEBPF }

// AddPort watches one more remote port.
func (e *EBPF) AddPort(port uint16) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if port == 0 {
		return errors.New("watch port 0: there is no such port")
	}
	if e.closed {
		return fmt.Errorf("watch port %d: %w", port, os.ErrClosed)
	}
	if err := e.maps.ports.Put(port, uint8(1)); err != nil {
		return fmt.Errorf("watch port %d, one of at most %d: %w", port, maxWatched, err)
	}
	return nil
}

// RemovePort watches that remote port no longer, whether it was watched or not.
func (e *EBPF) RemovePort(port uint16) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return fmt.Errorf("leave port %d: %w", port, os.ErrClosed)
	}
	if err := e.maps.ports.Delete(port); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("leave port %d: %w", port, err)
	}
	return nil
}

// Lost is how many connections no ring took because it was full or its CPU had none.
// Kernels before 5.1 do not tell the program that a ring was full: there the ring's own
// count stands, which counts outcomes too and comes only with the next event.
func (e *EBPF) Lost() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.readUnsent()
	if e.unsent > 0 {
		return e.unsent + e.unread.Load()
	}
	return e.lost.Load() + e.unread.Load()
}

func (e *EBPF) readUnsent() {
	if e.closed || e.maps.unsent == nil {
		return
	}
	var n uint64
	if err := e.maps.unsent.Lookup(uint32(0), &n); err == nil { // an array's lookup of what it has
		e.unsent = n
	}
}

// Run is [Source]'s. It returns nil when ctx ends or Close is called.
func (e *EBPF) Run(ctx context.Context, seen func(*Seen)) error {
	defer func() { _ = e.Close() }()
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = e.Close() // its error says nothing that could be acted on
	})
	defer func() {
		if !stop() {
			<-closed
		}
	}()
	var events []event
	for {
		var until int64
		var err error
		if events, until, err = e.fill(events); errors.Is(err, os.ErrClosed) {
			return nil
		} else if err != nil {
			return fmt.Errorf("ebpf: read the rings: %w", err)
		}
		e.lookAsleep()
		n := settled(events, until)
		for i := range events[:n] {
			if ctx.Err() != nil {
				return nil
			}
			seen(events[i].seen(e.asleep, &e.secret))
		}
		events = slices.Delete(events, 0, n)
	}
}

// settled puts events in order and returns how many happened until then.
func settled(events []event, until int64) int {
	slices.SortStableFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	n, _ := slices.BinarySearchFunc(events, until, func(e event, until int64) int {
		if e.at <= until {
			return -1
		}
		return 1
	})
	return n
}

// fill adds what the rings have to events, and waits for it if there are none yet. All that
// happened until the time it returns is then in events; what is later may lack something
// that came before it, as the rings are read one after the other. The outcome of a
// connection may be in another ring than its beginning, which was complete by then.
func (e *EBPF) fill(events []event) ([]event, int64, error) {
	var record perf.Record
	read := func() error {
		err := e.reader.ReadInto(&record)
		if err == nil {
			events = e.add(events, &record)
		} else if perf.IsUnknownEvent(err) {
			err = nil // some kind of record that this program does not cause
		}
		return err
	}
	e.reader.SetDeadline(time.Time{})
	for len(events) == 0 {
		if err := read(); err != nil {
			return events, 0, err
		}
	}
	until := monotonicNow()
	e.reader.SetDeadline(time.Unix(1, 0)) // long past: what there is, without waiting
	for len(events) < maxBatch {
		if err := read(); errors.Is(err, os.ErrDeadlineExceeded) {
			return events, until, nil
		} else if err != nil {
			return events, 0, err
		}
	}
	return events, math.MaxInt64, nil
}

func (e *EBPF) add(events []event, r *perf.Record) []event {
	e.lost.Add(r.LostSamples)
	if r.LostSamples > 0 {
		return events
	}
	ev, ok := parseEvent(r.RawSample)
	if !ok {
		e.unread.Add(1)
		return events
	}
	return append(events, ev)
}

// lookAsleep measures how long the machine has slept, which is what CLOCK_BOOTTIME is ahead
// of the programs' clock; programs can read it themselves only since Linux 5.8. However long
// this process is kept from its CPU meanwhile, a value that may still be right is kept: else
// an outcome could seem older than its connection.
func (e *EBPF) lookAsleep() {
	before := monotonicNow()
	boot := e.boot()
	after := monotonicNow()
	e.asleep = min(max(e.asleep, boot-after), boot-before)
}

// monotonicNow reads CLOCK_MONOTONIC, which the programs have their times from.
func monotonicNow() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // every kernel has this clock
	return ts.Nano()
}

// Close takes the programs off the kernel and ends Run.
func (e *EBPF) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil
	}
	e.readUnsent()
	e.closed = true
	var errs []error
	for _, tap := range e.taps {
		errs = append(errs, unix.Close(tap))
	}
	if e.reader != nil {
		errs = append(errs, e.reader.Close())
	}
	for _, p := range e.programs {
		errs = append(errs, p.Close())
	}
	for _, m := range []*ebpf.Map{e.maps.ports, e.maps.connecting, e.maps.events, e.maps.unsent} {
		errs = append(errs, m.Close()) // of nil does nothing
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("ebpf: close: %w", err)
	}
	return nil
}
