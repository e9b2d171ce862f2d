package origin

import (
	"errors"
	"net/netip"
	"strconv"
	"testing"
)

func TestOutgoingOwnerNamesUserAndSocket(t *testing.T) {
	here := func() bool { return true }
	elsewhere := func() bool { return false }
	l, port := listen(t, "127.0.0.1:0")
	c := connect(t, aliceUID, 4, "127.0.0.1", port, 0)
	client, server, _ := accept(t, l)
	d := diag(t)
	got, err := d.OutgoingOwner(client, server, elsewhere)
	if err != nil || got.UID != aliceUID || got.Inode == 0 || got.Redirected {
		t.Errorf("an ordinary connection: got %+v, %v, want uid %d", got, err, aliceUID)
	}
	redirected := netip.MustParseAddrPort("127.0.0.9:" + strconv.Itoa(int(port)))
	if got, err := d.OutgoingOwner(client, redirected, here); !errors.Is(err, ErrNotFound) {
		t.Errorf("nobody has the other end: got %+v, %v", got, err)
	}
	redirectedTo(t, redirected, client)
	got, err = d.OutgoingOwner(client, redirected, here)
	if err != nil || got.UID != aliceUID || !got.Redirected || got.Wanted != server {
		t.Errorf("a redirected connection: got %+v, %v, want uid %d on its way to %v", got, err, aliceUID, server)
	}
	if got, err := d.OutgoingOwner(client, redirected, elsewhere); !errors.Is(err, ErrNotFound) {
		t.Errorf("by port for another host: got %+v, %v", got, err)
	}
	c.say(t, "reset")
	if got := c.line(t); got != "closed" {
		t.Fatal(got)
	}
	if got, err := d.OutgoingOwner(client, server, here); !errors.Is(err, ErrNotFound) || got != (Outgoing{}) {
		t.Errorf("after a reset: got %+v, %v, want it to be too late", got, err)
	}
	if _, err := d.OutgoingOwner(netip.AddrPort{}, server, here); err == nil {
		t.Error("no address: no error")
	}
}

func TestListenerIsTheOneThatTakesTheConnection(t *testing.T) {
	d := diag(t)
	_, all := listen(t, "0.0.0.0:0")
	_, both := listen(t, "[::]:0")
	_, one := listen(t, "127.0.0.2:0")
	_, six := listen(t, "[::1]:0")
	for _, tt := range []struct {
		name, at string
		port     uint16
		want     bool
	}{
		{"on all addresses", "127.0.0.1", all, true},
		{"on all addresses, by another one", "127.8.8.8", all, true},
		{"on all of both families, by IPv4", "127.0.0.1", both, true},
		{"on all of both families, by IPv6", "::1", both, true},
		{"on one address", "127.0.0.2", one, true},
		{"on another address", "127.0.0.1", one, false},
		{"on IPv6 alone", "::1", six, true},
		{"on IPv6 alone, by IPv4", "127.0.0.1", six, false},
	} {
		at := netip.AddrPortFrom(netip.MustParseAddr(tt.at), tt.port)
		got, err := d.Listener(at)
		if tt.want != (err == nil && got.Inode != 0 && got.UID == 0) || !tt.want && !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: Listener(%v): got %+v, %v, want one: %v", tt.name, at, got, err, tt.want)
		}
	}
}

func TestServerEndIsFoundAmongOthers(t *testing.T) {
	l, port := listen(t, "127.0.0.1:0")
	connect(t, aliceUID, 4, "127.0.0.1", port, 0)
	client, server, _ := accept(t, l)
	d := diag(t)
	other := netip.MustParseAddrPort("127.0.0.1:25")
	if found, err := d.ServerEnd(client, []netip.AddrPort{other, server}); err != nil || !found {
		t.Errorf("got %v, %v, want the end found", found, err)
	}
	// a listener on the same address and port is no end of it
	if found, err := d.ServerEnd(netip.AddrPortFrom(client.Addr(), 1), []netip.AddrPort{other, server}); err != nil || found {
		t.Errorf("got %v, %v, want none", found, err)
	}
}

func BenchmarkServerEnd(b *testing.B) {
	d := NewDiag()
	defer func() { _ = d.Close() }()
	client := netip.MustParseAddrPort("192.0.2.1:4711")
	var servers []netip.AddrPort
	for _, a := range []string{"127.0.0.1", "192.0.2.1"} {
		for _, port := range []uint16{25, 465, 587} {
			servers = append(servers, netip.AddrPortFrom(netip.MustParseAddr(a), port))
		}
	}
	for b.Loop() {
		if _, err := d.ServerEnd(client, servers); err != nil {
			b.Fatal(err)
		}
	}
}
