package eximacl

import (
	"encoding/base64"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"osm/policy"
)

// standard is a message from a script, as Exim tells of it.
func standard() *policy.Submission {
	return &policy.Submission{
		MessageID: "1x9hqp-000000-6Q", Protocol: "local", CallerUID: 1001,
		Size: 2345, Recipients: 2, RecipientList: "a@example.net, b@example.org",
		WorkingDirectory: "/home/shop/public_html", Ident: "shop", AuthenticatedID: "shop",
		EnvelopeSender: "shop@vm", HeaderFrom: " Shop <shop@shop.example>\n", Subject: " Invoice 8841\n",
		PHPScript: " 1001:mail.php\n",
	}
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func TestParseRequest(t *testing.T) {
	tests := []struct {
		name, in string
		want     policy.Submission
	}{
		{"only the version", "osm=1\n\n", policy.Submission{CallerUID: -1}},
		{"lines in another order", "nrcpt=3\nosm=1\nid=x\n\n", policy.Submission{CallerUID: -1, Recipients: 3, MessageID: "x"}},
		{"unknown names, given twice", "osm=1\nnew=\xff\nnew=2\n\n", policy.Submission{CallerUID: -1}},
		{"values of strangers stay as they are", "osm=1\nsubj64=" + b64("a\x00\r\naction=discard") + "\n\n",
			policy.Submission{CallerUID: -1, Subject: "a\x00\r\naction=discard"}},
		{"empty numbers are not told", "osm=1\nouid=\nnrcpt=\n\n", policy.Submission{CallerUID: -1}},
		{"the port of Exim's own bounces", "osm=1\nlport=-1\n\n", policy.Submission{CallerUID: -1}},
		{"an IPv6 address loses its zone", "osm=1\nip=fe80::1%eth0\nport=25\n\n",
			policy.Submission{CallerUID: -1, ClientIP: netip.MustParseAddr("fe80::1"), ClientPort: 25}},
		{"a mapped address is the IPv4 address", "osm=1\nip=::ffff:192.0.2.1\n\n",
			policy.Submission{CallerUID: -1, ClientIP: netip.MustParseAddr("192.0.2.1")}},
		{"what follows the empty line is ignored", "osm=1\n\nid=x\n", policy.Submission{CallerUID: -1}},
		{"a long value is cut", "osm=1\nident64=" + b64(strings.Repeat("i", 200)) + "\n\n",
			policy.Submission{CallerUID: -1, Ident: strings.Repeat("i", 128)}},
		{"a full list of recipients is taken for cut", "osm=1\nrcpts64=" + b64(strings.Repeat("r", 4096)) + "\n\n",
			policy.Submission{CallerUID: -1, RecipientList: strings.Repeat("r", 4096), RecipientsCut: true}},
		{"what cPanel found", "osm=1\nowner64=" + b64("shop") + "\nvhost64=" + b64("1001:shop.example") + "\nrecent64=" + b64("a@b|b") + "\nalways64=" + b64("1") + "\n\n",
			policy.Submission{CallerUID: -1, LocalUser: "shop", VhostOwner: "1001:shop.example", RecentAuth: "a@b|b", AlwaysRelay: "1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseRequest([]byte(tt.in))
			if err != nil || !reflect.DeepEqual(*got, tt.want) {
				t.Errorf("ParseRequest(%.80q) = %+v, %v, want %+v", tt.in, got, err, tt.want)
			}
		})
	}
}

func TestParseRequestRefuses(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"nothing", "", "empty line"},
		{"a cut request", "osm=1\nid=x\n", "empty line"},
		{"a cut line", "osm=1\nid=x", "empty line"},
		{"no version", "id=x\n\n", "osm=1"},
		{"another version", "osm=2\n\n", "version"},
		{"a name given twice", "osm=1\nid=x\nid=x\n\n", "id is given twice"},
		{"a line without a name", "osm=1\n=x\n\n", "name=value"},
		{"a line without a value", "osm=1\nid\n\n", "name=value"},
		{"a number with a sign", "osm=1\nnrcpt=-2\n\n", "nrcpt"},
		{"a number that is none", "osm=1\nsize=12k\n\n", "size"},
		{"a number that is too large", "osm=1\nnrcpt=99999999999\n\n", "nrcpt"},
		{"a number with too many digits", "osm=1\nnrcpt=" + strings.Repeat("0", 100) + "\n\n", "nrcpt"},
		{"a host name for an address", "osm=1\nip=localhost\n\n", "ip"},
		{"a word that is too long", "osm=1\nid=" + strings.Repeat("x", 65) + "\n\n", "id"},
		{"base64 that is none", "osm=1\nsubj64=***\n\n", "subj64"},
		{"base64 without its padding", "osm=1\nsubj64=YQ\n\n", "subj64"},
		{"base64 with a carriage return", "osm=1\nsubj64=YQ==\r\n\n", "subj64"},
		{"too much", strings.Repeat("x", MaxRequest+1), "larger"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseRequest([]byte(tt.in))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ParseRequest(%.80q) = %+v, %v, want an error with %q", tt.in, got, err, tt.want)
			}
		})
	}
}

func TestParseRequestTakesFewAllocations(t *testing.T) {
	request := AppendRequest(nil, standard())
	n := testing.AllocsPerRun(100, func() {
		if _, err := ParseRequest(request); err != nil {
			t.Fatal(err)
		}
	})
	if n > 3 {
		t.Errorf("ParseRequest of the standard request makes %v allocations, want at most 3", n)
	}
}

// TestFieldsAreTheSubmission holds the table and the type together: every text, number
// and address of a submission has its name on the wire.
func TestFieldsAreTheSubmission(t *testing.T) {
	if got, want := len(fields), reflect.TypeFor[policy.Submission]().NumField()-1; got != want {
		// osm has no field; RecipientsCut has no name, and neither has Direct: that is no message.
		t.Errorf("%d names for %d fields of a submission", got, want)
	}
	for i := range fields {
		if (&parser{}).field([]byte(fields[i].name)) != i {
			t.Errorf("name %q stands twice in the table", fields[i].name)
		}
	}
}

// FuzzRequest: what is sent comes back, cut to its caps, whatever bytes it holds.
func FuzzRequest(f *testing.F) {
	f.Add("1x9hqp-000000-6Q", "local", int64(1001), "192.0.2.1", uint16(25), int64(2345), 2, "a@b, c@d", "/home/shop", "shop", "s@v", "Subj", "p")
	f.Add("\n", "=", int64(-1), "::1", uint16(0), int64(0), 0, strings.Repeat("r", 5000), "}${run{", "\x00", "\r\n", "\xff", "")
	f.Fuzz(func(t *testing.T, id, proto string, uid int64, ip string, port uint16, size int64, n int, list, dir, login, sender, subject, php string) {
		in := policy.Submission{
			MessageID: id, Protocol: proto, CallerUID: uid, ClientPort: port, LocalPort: port, Size: size, Recipients: n,
			RecipientList: list, WorkingDirectory: dir, Ident: login, AuthenticatedID: login, Authenticator: login, HELO: login,
			EnvelopeSender: sender, HeaderFrom: sender, Subject: subject, PHPScript: php,
			LocalUser: login, VhostOwner: php, RecentAuth: sender, AlwaysRelay: ip,
		}
		in.ClientIP, _ = netip.ParseAddr(ip)
		if uid < -1 || uid > 1<<32-1 || size < 0 || size > 1<<40 || n < 0 || n > 1<<24 {
			return // out of range: refused, see the table test
		}
		request := AppendRequest(nil, &in)
		if len(request) > MaxRequest {
			t.Fatalf("request of %d bytes", len(request))
		}
		out, err := ParseRequest(request)
		if err != nil {
			t.Fatalf("ParseRequest(AppendRequest(%+v)): %v", in, err)
		}
		want := in
		want.MessageID, want.Protocol = string(appendWord(nil, id, maxWord)), string(appendWord(nil, proto, maxWord))
		want.ClientIP = in.ClientIP.Unmap().WithZone("")
		for i := range fields {
			if f := &fields[i]; f.kind == text {
				s := f.str(&want)
				*s = (*s)[:min(len(*s), int(f.max))]
			}
		}
		want.RecipientsCut = len(want.RecipientList) == MaxRecipientList
		if !reflect.DeepEqual(*out, want) {
			t.Fatalf("sent %+v, got %+v", want, *out)
		}
	})
}

// FuzzParseRequest: hostile bytes are refused or give a bounded submission that goes
// over the wire unchanged.
func FuzzParseRequest(f *testing.F) {
	f.Add(AppendRequest(nil, standard()))
	f.Add([]byte("osm=1\nsubj64=====\n\n"))
	f.Add([]byte("osm=1\nouid=-1\nip=::1\nport=\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseRequest(b)
		if err != nil {
			return
		}
		for i := range fields {
			if f := &fields[i]; f.str != nil && len(*f.str(s)) > int(f.max) {
				t.Fatalf("%s is %d bytes long", f.name, len(*f.str(s)))
			}
		}
		again, err := ParseRequest(AppendRequest(nil, s))
		if err != nil {
			t.Fatalf("second ParseRequest: %v", err)
		}
		s.MessageID, s.Protocol = string(appendWord(nil, s.MessageID, maxWord)), string(appendWord(nil, s.Protocol, maxWord))
		if !reflect.DeepEqual(s, again) {
			t.Fatalf("%+v came back as %+v", s, again)
		}
	})
}
