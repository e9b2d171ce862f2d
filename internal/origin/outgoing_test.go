package origin

import (
	"errors"
	"net/netip"
	"strconv"
	"testing"
	"time"
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

func TestARedirectedConnectionIsToldFromAnotherOneOfTheSamePort(t *testing.T) {
	l, port := listen(t, "127.0.0.1:0")
	c := connect(t, aliceUID, 4, "127.0.0.1", port, 0)
	client, server, ours := accept(t, l)
	d := diag(t)
	other := netip.MustParseAddrPort("127.0.0.1:25")
	brought := netip.MustParseAddrPort("127.0.0.9:" + strconv.Itoa(int(port)))
	began := time.Now()
	ask := func(name string, from netip.AddrPort, age time.Duration, servers []netip.AddrPort, want bool) {
		t.Helper()
		if found, err := d.RedirectedTo(from, age, servers); err != nil || found != want {
			t.Errorf("%s: got %v, %v, want %v", name, found, err, want)
		}
	}
	ask("the client wanted to go there", client, time.Hour, []netip.AddrPort{other, server}, false)
	ask("a listener alone", netip.AddrPortFrom(client.Addr(), 1), time.Hour, []netip.AddrPort{other, server}, false)
	redirectedTo(t, brought, client)
	ask("our end of a connection elsewhere", client, time.Second, []netip.AddrPort{other, server, brought}, true)

	// The server closes first: the kernel remembers its end alone.
	if err := ours.Close(); err != nil {
		t.Fatal(err)
	}
	c.say(t, "close")
	if got := c.line(t); got != "closed" {
		t.Fatal(got)
	}
	time.Sleep(50 * time.Millisecond) // what is being tested takes time to pass
	ask("it was closed before this one began", client, 10*time.Millisecond, []netip.AddrPort{server}, false)
	ask("it was closed since", client, time.Since(began)+time.Second, []netip.AddrPort{server}, true)
}

func BenchmarkRedirectedTo(b *testing.B) {
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
		if _, err := d.RedirectedTo(client, time.Second, servers); err != nil {
			b.Fatal(err)
		}
	}
}
