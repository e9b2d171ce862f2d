package packetmon

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"osm/policy"
)

func sampleRecord() Record {
	return Record{At: time.UnixMilli(1_795_000_000_123).UTC(), Connection: policy.Connection{
		Seen: SourceEBPF, Local: netip.MustParseAddrPort("[2001:db8::1]:4711"), Remote: netip.MustParseAddrPort("[2001:db8::2]:25"),
		UID: 0, UIDKnown: true, Outcome: policy.OutcomeRefused, Cgroup: "/lve20001/x", Basis: "ebpf: uid 0 connected",
		Chain: []policy.Process{
			{PID: 812, UID: 20001, Executable: "/usr/bin/\xffperl\n", WorkingDirectory: "/home/alice/\x00\x1b[2J\u2028",
				Args: []string{"perl", "", "x\xfe.pl"}, Started: 99, ScriptFilename: "a", RemoteAddr: "b", RequestURI: "c", ServerName: "d", HTTPHost: "\xc3"},
			{PID: 1},
		},
	}}
}

func TestARecordComesBackAsItWasSent(t *testing.T) {
	unknown := sampleRecord()
	unknown.Connection.UIDKnown, unknown.Connection.Chain, unknown.Connection.Local = false, nil, netip.AddrPort{}
	for _, r := range []Record{sampleRecord(), unknown, {At: time.UnixMilli(0).UTC()}} {
		line, err := AppendMessage(nil, Message{Record: &r})
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseMessage(line[:len(line)-1])
		if err != nil || !reflect.DeepEqual(got.Record, &r) || got.Status != nil {
			t.Errorf("%s\ngot  %+v, %v\nwant %+v", line, got.Record, err, r)
		}
	}
	s := Status{Source: SourcePacket, Level: LevelDegraded, Better: []Refused{{SourceEBPF, "no"}}, Problems: []string{"p"},
		Unseen: []string{"u"}, Ports: []uint16{25, 587}, SelfTest: "ok", Counts: Counts{Seen: 3, Dropped: 1}}
	line, err := AppendMessage(nil, Message{Status: &s})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseMessage(line[:len(line)-1]); err != nil || !reflect.DeepEqual(got.Status, &s) {
		t.Errorf("%s\ngot %+v, %v", line, got.Status, err)
	}
	if want := `"to_mta":0`; !strings.Contains(string(line), want) {
		t.Errorf("got %s, want %s in it", line, want)
	}
}

func TestTheLargestRecordFitsALine(t *testing.T) {
	long := strings.Repeat("\xff", 100_000)
	p := policy.Process{PID: -1 << 31, UID: 1<<32 - 1, Started: 1<<63 - 1, Executable: long[:maxPath], WorkingDirectory: long[:maxPath],
		Args: slices.Repeat([]string{long[:maxArgBytes/maxArgs]}, maxArgs), ScriptFilename: long, RemoteAddr: long, RequestURI: long, ServerName: long, HTTPHost: long}
	r := Record{At: time.UnixMilli(1 << 60), Connection: policy.Connection{Seen: strings.Repeat(`"`, 50), UID: 1<<32 - 1, UIDKnown: true, Outcome: 77,
		Local: netip.MustParseAddrPort("[fe80::1234:5678:9abc:def0%" + long[:1] + "eth0]:65535"), Cgroup: long, Basis: long, Chain: slices.Repeat([]policy.Process{p}, 20)}}
	for i := range r.Connection.Chain[1:] {
		r.Connection.Chain[1+i].Executable, r.Connection.Chain[1+i].WorkingDirectory = long[:200], "/"
	}
	before := r.Connection.Chain[0].ScriptFilename
	line, err := AppendMessage(nil, Message{Record: &r})
	if err != nil {
		t.Fatal(err)
	}
	if r.Connection.Chain[0].ScriptFilename != before {
		t.Error("writing a record changed it")
	}
	got, err := ParseMessage(line[:len(line)-1])
	if err != nil {
		t.Fatalf("%d bytes: %v", len(line), err)
	}
	c := got.Record.Connection
	if len(c.Chain) != maxChain || c.Chain[0].Executable != p.Executable || len(c.Chain[0].Args) != maxArgs || len(c.Chain[0].RequestURI) != maxVariable {
		t.Errorf("got %d processes, want %d; the first must be whole", len(c.Chain), maxChain)
	}
	if last := c.Chain[len(c.Chain)-1]; last.Args != nil {
		t.Error("the last has arguments, though there was no room")
	}
	t.Logf("%d bytes, %d processes", len(line), len(c.Chain))
	p.Executable = long[:maxPath+1]
	r.Connection.Chain = []policy.Process{p}
	if bound(&r); r.Connection.Chain[0].Executable != "" {
		t.Error("a path that is too long became another path")
	}
}

func TestLinesThatAreNotOursAreRefused(t *testing.T) {
	for name, line := range map[string]string{
		"nothing":                        ``,
		"neither":                        `{}`,
		"both":                           `{"record":{"outcome":"unknown"},"status":{}}`,
		"an outcome that there is not":   `{"record":{"outcome":"blessed"}}`,
		"a time in no year":              `{"record":{"outcome":"unknown","at":9000000000000000000}}`,
		"an address with a zone":         `{"record":{"outcome":"unknown","remote":"[fe80::1%eth0]:25"}}`,
		"IPv4 in IPv6":                   `{"record":{"outcome":"unknown","remote":"[::ffff:1.2.3.4]:25"}}`,
		"too many processes":             `{"record":{"outcome":"unknown","chain":[{},{},{},{},{},{},{},{}]}}`,
		"a source's name with an escape": `{"record":{"outcome":"unknown","seen":"\u001b"}}`,
		"text that is no base64":         `{"record":{"outcome":"unknown","basis64":"?"}}`,
		"a uid of five bytes":            `{"record":{"outcome":"unknown","uid":4294967296}}`,
		"something behind it":            `{"record":{"outcome":"unknown"}} {}`,
		"longer than a line":             `{"record":{"outcome":"unknown"}` + strings.Repeat(" ", maxLine) + `}`,
	} {
		if m, err := ParseMessage([]byte(line)); err == nil {
			t.Errorf("%s: got %+v, want an error", name, m)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	r, s := sampleRecord(), Status{Source: SourceEBPF, Level: LevelOK}
	for _, m := range []Message{{Record: &r}, {Status: &s}} {
		line, err := AppendMessage(nil, m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(line[:len(line)-1])
	}
	f.Add([]byte(`{"status":{"problems":["\u001b",""],"ports":[]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMessage(b)
		if err != nil {
			return
		}
		if m.Record != nil && !bound(m.Record) {
			t.Fatalf("%q: beyond the bounds", b)
		}
		line, err := AppendMessage(nil, m)
		if err != nil || len(line) > maxLine || strings.Count(string(line), "\n") != 1 {
			t.Fatalf("%q: written as %q, %v", b, line, err)
		}
		again, err := ParseMessage(line[:len(line)-1])
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%q: got %+v, %v, want %+v", b, again, err, m)
		}
	})
}

func FuzzRecordComesBack(f *testing.F) {
	f.Add("ebpf", "/usr/bin/perl", "/home", "-e\x001", "x", uint32(1), int64(5), uint8(2))
	f.Fuzz(func(t *testing.T, seen, exe, dir, args, text string, uid uint32, at int64, outcome uint8) {
		p := policy.Process{PID: int32(uid), UID: uid, Executable: exe, WorkingDirectory: dir, Args: strings.Split(args, "\x00"), RequestURI: text}
		r := Record{At: time.UnixMilli(at), Connection: policy.Connection{Seen: seen, UID: uid, UIDKnown: uid%2 == 0, Cgroup: text, Basis: text,
			Outcome: policy.Outcome(outcome), Chain: []policy.Process{p, p, p}, Remote: netip.AddrPortFrom(netip.AddrFrom16([16]byte([]byte(text + "0123456789abcdef")[:16])), uint16(uid))}}
		bound(&r)
		if !bound(&r) {
			t.Fatal("bounding twice changes a record")
		}
		line, err := AppendMessage(nil, Message{Record: &r})
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseMessage(line[:len(line)-1])
		if err != nil || !reflect.DeepEqual(*got.Record, r) {
			t.Fatalf("got %+v, %v\nwant %+v", got.Record, err, r)
		}
	})
}
