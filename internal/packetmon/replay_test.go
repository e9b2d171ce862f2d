package packetmon

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// link is a kind of capture file: what stands before each IP packet.
type link struct {
	name   string
	kind   layers.LinkType
	header func(packet []byte, outgoing bool) []byte
}

func etherType(packet []byte) []byte {
	return binary.BigEndian.AppendUint16(nil, uint16(protocolOf(packet)))
}

func links() []link {
	direction := func(outgoing bool) byte {
		if outgoing {
			return unix.PACKET_OUTGOING
		}
		return unix.PACKET_HOST
	}
	macs := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}
	return []link{
		{"ethernet", layers.LinkTypeEthernet, func(p []byte, _ bool) []byte { return slices.Concat(macs, etherType(p)) }},
		{"vlan", layers.LinkTypeEthernet, func(p []byte, _ bool) []byte {
			return slices.Concat(macs, []byte{0x88, 0xa8, 0, 5, 0x81, 0, 0, 7}, etherType(p))
		}},
		{"any", layers.LinkTypeLinuxSLL, func(p []byte, outgoing bool) []byte {
			return slices.Concat([]byte{0, direction(outgoing), 0, 1, 0, 6}, macs[:6], []byte{0, 0}, etherType(p))
		}},
		{"any2", linkSLL2, func(p []byte, outgoing bool) []byte {
			return slices.Concat(etherType(p), []byte{0, 0, 0, 0, 0, 2, 0, 1, direction(outgoing), 6}, macs[:6], []byte{0, 0})
		}},
		{"raw", layers.LinkTypeRaw, func([]byte, bool) []byte { return nil }},
		{"null", layers.LinkTypeNull, func(p []byte, _ bool) []byte {
			if firstLayer(p) == layers.LayerTypeIPv6 {
				return []byte{10, 0, 0, 0}
			}
			return []byte{2, 0, 0, 0}
		}},
	}
}

// capture is a file of all samples, a second after one another.
func capture(t testing.TB, l link, outgoing bool) []byte {
	t.Helper()
	var b bytes.Buffer
	w := pcapgo.NewWriterNanos(&b)
	if err := w.WriteFileHeader(65535, l.kind); err != nil {
		t.Fatal(err)
	}
	if l.kind == linkSLL2 {
		binary.LittleEndian.PutUint32(b.Bytes()[20:], 276) // which the library has no room for
	}
	for i, s := range samples() {
		packet := append(l.header(s.packet, outgoing), s.packet...)
		info := gopacket.CaptureInfo{Timestamp: time.Unix(1_800_000_000+int64(i), 5), CaptureLength: len(packet), Length: len(packet)}
		if err := w.WritePacket(info, packet); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// wantReplayed is what a file of all samples has, and how many of them are broken.
// An empty packet is broken only where no other header is before it.
func wantReplayed(began int64) (seen []Seen, broken uint64) {
	for i, s := range samples() {
		switch s.want {
		case packetOpens:
			c := s.wantSeen()
			c.At = began + int64(time.Duration(i)*time.Second)
			seen = append(seen, c)
		case packetBroken:
			broken++
		}
	}
	return seen, broken
}

func replayed(t *testing.T, path string, local func(netip.Addr) bool) ([]Seen, uint64) {
	t.Helper()
	r, err := OpenReplay(path, ReplayOptions{Ports: []uint16{25, 465, 587}, Local: local, Boot: func() int64 { return 1000 }})
	if err != nil {
		t.Fatal(err)
	}
	var seen []Seen
	if err := r.Run(t.Context(), func(s *Seen) { seen = append(seen, *s) }); err != nil {
		t.Fatalf("Run: %v", err)
	}
	if err := r.Close(); err != nil || r.Name() != SourcePacket {
		t.Errorf("%s closed again: %v", r.Name(), err)
	}
	return seen, r.Lost()
}

func TestReplayReportsWhatTheFileHas(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			path := filepath.Join("testdata", l.name+".pcap")
			made := capture(t, l, true)
			if *update {
				if err := os.WriteFile(path, made, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if golden, err := os.ReadFile(path); err != nil || !bytes.Equal(golden, made) {
				t.Fatalf("%s is not what the test makes (-update writes it): %v", path, err)
			}
			seen, lost := replayed(t, path, nil)
			want, broken := wantReplayed(1000)
			if l.name != "raw" {
				broken--
			}
			if !slices.Equal(seen, want) || lost != broken {
				t.Errorf("got %d, %d lost: %+v\nwant %d, %d lost: %+v", len(seen), lost, seen, len(want), broken, want)
			}
		})
	}
}

func TestReplayLeavesOutWhatCameToTheHost(t *testing.T) {
	for _, l := range links() {
		path := filepath.Join(t.TempDir(), "in.pcap")
		if err := os.WriteFile(path, capture(t, l, false), 0o600); err != nil {
			t.Fatal(err)
		}
		knows := strings.HasPrefix(l.name, "any")
		if seen, _ := replayed(t, path, nil); knows != (len(seen) == 0) {
			t.Errorf("%s: the file says that all came to this host: %v; reported were %d", l.name, knows, len(seen))
		}
		if seen, _ := replayed(t, path, func(a netip.Addr) bool { return a.String() == to4 || a.String() == to6 }); len(seen) != 0 {
			t.Errorf("%s: of packets from elsewhere %+v were reported", l.name, seen)
		}
	}
	seen, _ := replayed(t, filepath.Join("testdata", "raw.pcap"), func(a netip.Addr) bool { return a.Is4() })
	if len(seen) == 0 || slices.ContainsFunc(seen, func(s Seen) bool { return s.Local.Addr().Is6() }) {
		t.Errorf("of this host's IPv4 addresses: %+v", seen)
	}
}

func TestReplayReadsACompressedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.pcap.gz")
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(capture(t, links()[0], true))
	z.Close()
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	seen, _ := replayed(t, path, nil)
	if want, _ := wantReplayed(1000); !slices.Equal(seen, want) {
		t.Errorf("got %+v, want %+v", seen, want)
	}
}

// header is the first 24 bytes of a file.
func header(t testing.TB, kind layers.LinkType) []byte {
	return capture(t, link{kind: kind, header: links()[4].header}, true)[:24]
}

func TestReplayRefusesWhatItCannotRead(t *testing.T) {
	good := capture(t, links()[0], true)
	long := slices.Clone(good[:40])
	binary.LittleEndian.PutUint32(long[16:], 0xffffffff) // packets may be as long as 4 GiB …
	binary.LittleEndian.PutUint32(long[32:], 0xfffffff0) // … and one is
	binary.LittleEndian.PutUint32(long[36:], 0xfffffff0)
	for _, tt := range []struct {
		name string
		file []byte
		want string
	}{
		{"nothing", nil, "not a pcap file"},
		{"a text", []byte("220 mail.example ESMTP, and more than a header of text"), "not a pcap file"},
		{"pcapng", append([]byte{0x0a, 0x0d, 0x0d, 0x0a}, make([]byte, 60)...), "save pcapng as pcap"},
		{"half a header", good[:20], "not a pcap file"},
		{"wireless packets", header(t, layers.LinkTypeIEEE802_11), "link type 105"},
		{"a file that was cut", good[:200], "packet 2: unexpected EOF"},
		{"a packet of 4 GiB", long, "packet 1: "},
	} {
		path := filepath.Join(t.TempDir(), "x.pcap")
		if err := os.WriteFile(path, tt.file, 0o600); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r, err := OpenReplay(path, ReplayOptions{Ports: []uint16{25}, Boot: sinceBoot})
		if err == nil {
			err = r.Run(t.Context(), func(*Seen) {})
		}
		runtime.ReadMemStats(&after)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want %q and the path", tt.name, err, tt.want)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20 {
			t.Errorf("%s: took %d bytes of memory", tt.name, used)
		}
	}
	if _, err := OpenReplay("/nonexistent/x.pcap", ReplayOptions{Ports: []uint16{25}, Boot: sinceBoot}); err == nil {
		t.Error("a file that is missing was opened")
	}
}

func TestReplayEndsWithItsContext(t *testing.T) {
	r, err := OpenReplay(filepath.Join("testdata", "raw.pcap"), ReplayOptions{Ports: []uint16{25}, Boot: sinceBoot})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	if err := r.Run(ctx, func(*Seen) { n++; cancel() }); err != nil || n != 1 {
		t.Errorf("cancelled at the first connection: got %d and %v", n, err)
	}
}

// FuzzPcap: no file makes a panic, takes more memory than its longest packet may have, or
// makes a connection up that was not asked for; time does not go back.
func FuzzPcap(f *testing.F) {
	for _, l := range links() {
		f.Add(capture(f, l, true))
	}
	f.Add([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0, 3, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Replay
		r.opt, r.ports = ReplayOptions{Boot: func() int64 { return 7 }}, mailPorts()
		if r.readHeader(bytes.NewReader(b)) != nil {
			return
		}
		n, last := 0, int64(7)
		_ = r.run(t.Context(), func(s *Seen) {
			n++
			if s.At < last || !mailPorts().has(s.Remote.Port()) || !s.Local.IsValid() || s.UIDKnown {
				t.Errorf("seen %+v after %d", *s, last)
			}
			last = s.At
		})
		if b[0] != 0x1f && (24+n*(16+40) > len(b)) {
			t.Errorf("%d connections from %d bytes", n, len(b))
		}
	})
}
