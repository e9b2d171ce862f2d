package control

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os/user"
	"strconv"

	"osm/internal/origin"
)

// Role is what an actor may do.
type Role string

// The roles.
const (
	Operator Role = "operator" // everything
	Reseller Role = "reseller" // see and set what concerns his own accounts, up to his own limits
)

// Actor is who asks: every operation takes one first, and every change is written down
// with it.
type Actor struct {
	Name     string // for the audit: a user name, or what root asserted
	UID      uint32 // of the peer
	Role     Role
	Reseller string // whose accounts a Reseller sees
}

// Headers with which uid 0 asserts for whom it asks.
const (
	headerUser     = "X-OSM-User"
	headerRole     = "X-OSM-Role"
	headerReseller = "X-OSM-Reseller"
)

// headerChange tells in an answer the number that a change has in the audit.
const headerChange = "X-OSM-Change"

// maxActorName bounds what is written into the audit.
const maxActorName = 64

// actorOf says who sent a request. The peer's uid is the kernel's word; the kernel has
// also let only root and the socket's group connect.
func actorOf(peer origin.Peer, h http.Header) (Actor, error) {
	asserted := h.Get(headerUser) != "" || h.Get(headerRole) != "" || h.Get(headerReseller) != ""
	if peer.UID != 0 {
		if asserted {
			return Actor{}, forbidden("only root may ask for somebody else (%s, %s, %s)", headerUser, headerRole, headerReseller)
		}
		return Actor{Name: userName(peer.UID), UID: peer.UID, Role: Operator}, nil
	}
	if err := wholeAssertion(h); err != nil {
		return Actor{}, err
	}
	a := Actor{Name: "root", Role: Operator}
	if name := h.Get(headerUser); name != "" {
		a.Name = name
	}
	switch role := Role(h.Get(headerRole)); role {
	case "", Operator:
	case Reseller:
		a.Role, a.Reseller = Reseller, h.Get(headerReseller)
		if a.Reseller == "" {
			a.Reseller = a.Name
		}
	default:
		return Actor{}, badRequest("%s is %.40q: it is operator or reseller", headerRole, role)
	}
	if !plainName(a.Name) || (a.Role == Reseller && !plainName(a.Reseller)) {
		return Actor{}, badRequest("%s must be 1 to %d printable characters", headerUser, maxActorName)
	}
	if a.Role == Reseller && (a.Reseller == "root" || a.Name == "root") {
		return Actor{}, badRequest("root is no reseller")
	}
	return a, nil
}

// wholeAssertion refuses half of one: a front end that loses the role of a reseller on
// the way must not make an operator of him.
func wholeAssertion(h http.Header) error {
	role, reseller := h.Values(headerRole), h.Values(headerReseller)
	switch {
	case len(role) > 1 || len(reseller) > 1 || len(h.Values(headerUser)) > 1:
		return badRequest("%s, %s and %s are given once each", headerUser, headerRole, headerReseller)
	case len(role) == 1 && role[0] == "":
		return badRequest("%s is empty: it is operator or reseller, or left out", headerRole)
	case len(reseller) > 0 && (len(role) == 0 || Role(role[0]) != Reseller):
		return badRequest("%s is only for %s: reseller", headerReseller, headerRole)
	}
	return nil
}

func plainName(s string) bool {
	if s == "" || len(s) > maxActorName {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

func userName(uid uint32) string {
	if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil && plainName(u.Username) {
		return u.Username
	}
	return fmt.Sprintf("uid %d", uid)
}

// peerKey is where a connection's peer is found in its context.
type peerKey struct{}

// withPeer remembers who is at the other end, for http.Server.ConnContext.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	capped, ok := c.(*cappedConn)
	if !ok {
		return ctx
	}
	peer, err := origin.PeerOf(capped.UnixConn)
	if err != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, peer)
}
