package packetmon

import (
	"context"
	"log/slog"

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

// OpenersOptions is what the sources need to be opened.
type OpenersOptions struct {
	Ports []uint16
	Boot  func() int64 // CLOCK_BOOTTIME in nanoseconds
	Log   *slog.Logger
}

// Options says what a [Monitor] watches and whom it passes over.
type Options struct {
	Ports   []uint16 // the mail ports, as the openers have them
	Source  string   // SourceAuto, SourceOff, or the one source to use
	Openers []Opener // the best first
	Exim    string   // Exim's program, an absolute path; "" = there is none
	// Excluded tells the users whose connections are no bypass: Exim's own, the panel's, and
	// root if root is. A listener of theirs, or of root's, is this host's mail server. It is
	// asked for each connection and may change its mind.
	Excluded func(uid uint32) bool
	Clock    func() policy.Moment
	Boot     func() int64 // CLOCK_BOOTTIME in nanoseconds, which Seen.At is of
	Log      *slog.Logger
}

// Monitor watches the connections of this host by the best source there is.
type Monitor struct {
	opt Options
}

// New returns a monitor that watches once [Monitor.Run] runs.
func New(o Options) (*Monitor, error) {
	return &Monitor{opt: o}, nil
}

// Run watches until ctx ends and returns nil then, whatever becomes of the sources. What it
// finds waits for [Monitor.Next].
func (m *Monitor) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Next waits for the next record, which is handed out once, and fails when ctx ends.
func (m *Monitor) Next(ctx context.Context) (Record, error) {
	<-ctx.Done()
	return Record{}, context.Cause(ctx)
}

// Status tells how the monitor is.
func (m *Monitor) Status() Status { return Status{Source: SourceOff, Level: LevelOff} }

