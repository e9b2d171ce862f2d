package packetmon

import (
	"context"
	"net/netip"

	"osm/policy"
)

// The names of the sources, the best first.
const (
	SourceEBPF   = "ebpf"
	SourcePacket = "packet"
	SourcePoll   = "poll"
)

// Source sees the beginning of outgoing TCP connections to the ports that it was opened
// with, IPv4 and IPv6, on every interface, loopback included. It may report one twice, and
// reports nothing else. Other traffic never wakes it.
type Source interface {
	// Name is SourceEBPF, SourcePacket or SourcePoll.
	Name() string
	// Run calls seen for each connection, one after the other, until ctx ends or the source
	// fails; the source is closed then. seen must not be called after Run has returned.
	Run(ctx context.Context, seen func(*Seen)) error
	// Lost is how many connections the kernel dropped before they could be read.
	Lost() uint64
	// Close ends a source that was never run.
	Close() error
}

// Seen is a connection as a source saw it, before anything was looked up. Addresses are
// unmapped: an IPv4 connection of an IPv6 socket has IPv4 addresses.
type Seen struct {
	// At is when it was seen: CLOCK_BOOTTIME, in nanoseconds.
	At int64
	// Local is this host's end; its port is 0 where the source does not know it.
	Local netip.AddrPort
	// Remote is the destination.
	Remote netip.AddrPort

	// UID and Inode are the owner of the socket and its inode, where the source was told; PID
	// is the process that connects, 0 where it was not.
	UID      uint32
	UIDKnown bool
	Inode    uint32
	PID      int32

	// Socket tells the connections of a source apart: the address of the kernel's socket, or
	// the sequence number of the first packet. A source that reports what became of a
	// connection does so under the same number, with that Outcome and its time.
	Socket  uint64
	Outcome policy.Outcome
}
