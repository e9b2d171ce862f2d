package packetmon

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"time"

	"osm/policy"
)

// silence is how long the kernel waits for an answer at the very least: it asks a second
// time after one second and, at its shortest setting, gives up a second later. What ends
// sooner without a process having closed it was refused, by an ICMP error. Only a program
// that has set TCP_USER_TIMEOUT to less than this is told wrong.
const silence = 1900 * time.Millisecond

// event is what the program in the kernel wrote.
type event struct {
	at, start     int64 // CLOCK_MONOTONIC
	socket        uint64
	uid, pid      uint32
	what          what
	local, remote netip.AddrPort
}

// parseEvent reads what a ring had. The kernel may leave up to seven bytes more behind it.
func parseEvent(raw []byte) (event, bool) {
	if len(raw) < eventSize || len(raw) > eventSize+7 {
		return event{}, false
	}
	order := binary.NativeEndian
	e := event{
		at:     int64(order.Uint64(raw[eventAt:])),
		start:  int64(order.Uint64(raw[eventStart:])),
		socket: order.Uint64(raw[eventSocket:]),
		uid:    order.Uint32(raw[eventUID:]),
		pid:    order.Uint32(raw[eventPID:]),
		what:   what(order.Uint16(raw[eventWhat:])),
		local:  endpoint(raw[eventLocal:], order.Uint16(raw[eventLocalPort:])),
		remote: endpoint(raw[eventRemote:], order.Uint16(raw[eventRemotePort:])),
	}
	return e, e.what < whats && e.remote.IsValid() && e.remote.Port() != 0 && e.at >= e.start && e.start >= 0
}

// endpoint has no address where the kernel had none yet.
func endpoint(address []byte, port uint16) netip.AddrPort {
	a := netip.AddrFrom16([16]byte(address[:16])).Unmap()
	if a.IsUnspecified() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, port)
}

// outcome is what the event says of what became of the connection.
func (e *event) outcome() policy.Outcome {
	switch {
	case e.what == whatBegins:
		return policy.OutcomeUnknown
	case e.what == whatEstablished:
		return policy.OutcomeEstablished
	case e.what == whatReset, e.what == whatEnded && e.at-e.start < int64(silence):
		return policy.OutcomeRefused
	}
	return policy.OutcomeUnanswered
}

// seen makes of it what a source tells. asleep is CLOCK_BOOTTIME less CLOCK_MONOTONIC.
func (e *event) seen(asleep int64, secret *[16]byte) *Seen {
	s := &Seen{
		At:      e.at + asleep,
		Local:   e.local,
		Remote:  e.remote,
		Socket:  e.number(secret),
		Outcome: e.outcome(),
	}
	if e.what == whatBegins {
		s.UID, s.UIDKnown, s.PID = e.uid, true, int32(e.pid)
	}
	return s
}

// number tells this connection from all others. The kernel uses a socket's memory again,
// hence the time; and where its memory is must not be known outside, hence the secret.
func (e *event) number(secret *[16]byte) uint64 {
	var b [32]byte
	copy(b[:], secret[:])
	binary.NativeEndian.PutUint64(b[16:], e.socket)
	binary.NativeEndian.PutUint64(b[24:], uint64(e.start))
	sum := sha256.Sum256(b[:])
	return binary.NativeEndian.Uint64(sum[:])
}
