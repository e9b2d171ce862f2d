package packetmon

import (
	"context"
	"log/slog"
	"net"
)

// ServeOptions says to whom [Serve] hands the records.
type ServeOptions struct {
	UID uint32 // the daemon's user; root may follow, too
	Log *slog.Logger
}

// Serve hands the monitor's records, each once, and its status to whoever follows at l until
// ctx ends or l fails. There is one follower at a time: another one that may follow takes
// its place. The monitor runs beside it.
func Serve(ctx context.Context, l *net.UnixListener, m *Monitor, o ServeOptions) error {
	<-ctx.Done()
	return nil
}
