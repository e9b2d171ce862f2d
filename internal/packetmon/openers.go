package packetmon

import "log/slog"

// SourceOptions is what the sources need to be opened.
type SourceOptions struct {
	Ports []uint16
	Boot  func() int64 // CLOCK_BOOTTIME in nanoseconds
	Log   *slog.Logger
}

// Openers lists the sources, the best first.
func Openers(SourceOptions) []Opener {
	return nil
}
