package evidence

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"osm/internal/origin"
)

func TestStatusOfPHPFPM(t *testing.T) {
	s, err := parseFPM([]byte(page(t, "fpm.json")))
	if err != nil || s.Pool != "shop" || s.Idle != 1 || len(s.Processes) != 6 {
		t.Fatalf("%+v, %v", s, err)
	}
	want := fpmProcess{PID: 4131, State: "Running", Requests: 2, Duration: 716277, Method: "GET",
		URI: "/slow.php?u=é\",\"pid\":1}", Script: "//home/shop/public_html/slow.php"}
	if s.Processes[0] != want {
		t.Errorf("the first process is %+v, want %+v", s.Processes[0], want)
	}
	if p := s.Processes[4]; p.escaped() != "/a%20b.php?z=1" {
		t.Errorf("%q as a request is %q", p.URI, p.escaped())
	}
}

func TestAStatusOfPHPFPMThatDoesNotAgreeInItself(t *testing.T) {
	whole := page(t, "fpm.json")
	for name, text := range map[string]string{
		"one process more than there are": strings.Replace(whole, `"total processes":6`, `"total processes":5`, 1),
		"a process twice":                 strings.Replace(whole, `"pid":4132`, `"pid":4131`, 1),
		"a process without number":        strings.Replace(whole, `"pid":4132`, `"pid":0`, 1),
		"a time before it began":          strings.Replace(whole, `"request duration":716277`, `"request duration":-1`, 1),
		"no pool":                         strings.Replace(whole, `"pool":"shop"`, `"pool":""`, 1),
		"cut":                             whole[:len(whole)/2],
		"too long":                        whole + strings.Repeat(" ", maxFPMStatus),
		"another document":                "[]",
	} {
		if s, err := parseFPM([]byte(text)); err == nil || s.Processes != nil {
			t.Errorf("%s: %+v was taken", name, s)
		}
	}
}

// answerFPM is a FastCGI server that answers one question after the other with raw bytes,
// then none.
func answerFPM(t *testing.T, answers ...[]byte) Pool {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for _, raw := range answers {
			c, err := l.Accept()
			if err != nil {
				return
			}
			answerOne(c, raw)
		}
		_ = l.Close()
	}()
	return Pool{Name: "shop", Address: path, StatusPath: "/fpm-status"}
}

func answerOne(c net.Conn, raw []byte) {
	defer c.Close()
	if raw == nil { // an answer that never comes
		_, _ = io.Copy(io.Discard, c)
		return
	}
	_, _ = c.Read(make([]byte, 4096)) // the question is one write
	_, _ = c.Write(raw)
}

func stdout(text string) []byte {
	var b []byte
	for chunk := range strings.SplitSeq(text, "\x00") {
		b = appendRecord(b, fcgiStdout, []byte(chunk))
	}
	return appendRecord(b, fcgiEnd, make([]byte, 8))
}

const cgiHead = "Content-Type: application/json\r\n\r\n"

func TestAskingAPool(t *testing.T) {
	o := &Options{Now: origin.Clock()}
	json := page(t, "fpm.json")
	s, err := askFPM(context.Background(), answerFPM(t, stdout(cgiHead+json[:100]+"\x00"+json[100:])), o)
	if err != nil || len(s.Processes) != 6 || s.before > s.after {
		t.Fatalf("%+v, %v", s, err)
	}
	other := answerFPM(t, stdout(cgiHead+json))
	other.Name = "blog"
	outside := Pool{Name: "shop", Address: "192.0.2.1:9000", StatusPath: "/fpm-status"}
	for name, p := range map[string]Pool{
		"another pool's page":  other,
		"not found":            answerFPM(t, stdout("Status: 404 Not Found\r\n\r\nFile not found.")),
		"no head":              answerFPM(t, stdout(json)),
		"a refused request":    answerFPM(t, appendRecord(nil, fcgiEnd, []byte{0, 0, 0, 0, 2, 0, 0, 0})),
		"another request's":    answerFPM(t, []byte{1, fcgiStdout, 0, 9, 0, 0, 0, 0}),
		"half a record":        answerFPM(t, stdout(cgiHead + json)[:200]),
		"a type there is not":  answerFPM(t, []byte{1, 99, 0, 1, 0, 0, 0, 0}),
		"no socket":            {Name: "shop", Address: filepath.Join(t.TempDir(), "none"), StatusPath: "/s"},
		"another host":         outside,
		"no status page known": {Name: "shop", Address: "/nowhere"},
	} {
		if s, err := askFPM(context.Background(), p, o); err == nil {
			t.Errorf("%s: %+v was taken", name, s)
		}
	}
	if _, err := New(Options{Pools: []Pool{outside}, Now: o.Now}); err == nil {
		t.Error("a pool on another host is taken")
	}
}

// php-fpm answers so while a worker holds its scoreboard.
func TestAPoolThatIsBusyForAMomentIsAskedAgain(t *testing.T) {
	o := &Options{Now: origin.Clock()}
	busy, old := stdout("Status: 500 Internal Server Error\r\n\r\nServer busy."), stdout("Status: 503 Service Unavailable\r\n\r\n")
	good := stdout(cgiHead + page(t, "fpm.json"))
	s, err := askFPM(context.Background(), answerFPM(t, busy, old, good), o)
	if err != nil || len(s.Processes) != 6 {
		t.Errorf("%+v, %v", s, err)
	}
	p := answerFPM(t, busy, old, good)
	if got, err := askNamed(t, poolsFile(t, 0o644, p.Address), "pool0"); err != nil || !strings.Contains(got, `"pool":"shop"`) {
		t.Errorf("the asker got %q, %v", got, err)
	}
	missing := stdout("Status: 404 Not Found\r\n\r\n")
	for name, answers := range map[string][][]byte{
		"for good":                {busy, busy, busy, busy, busy, good},
		"another status is final": {missing, good},
	} {
		var status badStatus
		if s, err := askFPM(context.Background(), answerFPM(t, answers...), o); !errors.As(err, &status) {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
}

func TestAPoolThatDoesNotAnswerCostsLittleTime(t *testing.T) {
	before := time.Now()
	_, err := askFPM(context.Background(), answerFPM(t, nil), &Options{Now: origin.Clock()})
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("the error is %v, want one of time", err)
	}
	if took := time.Since(before); took < askTime || took > askTime+2*time.Second {
		t.Errorf("it took %v, want %v", took, askTime)
	}
}

func TestParametersOfARequest(t *testing.T) {
	long := strings.Repeat("x", 300)
	b := appendFCGIRequest(nil, [][2]string{{"A", "b"}, {"LONG", long}})
	want := append([]byte{1, 1, 0, 1, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, 1, 4, 0, 1, 1, 57, 0, 0)
	want = append(want, 1, 1, 'A', 'b', 4, 0x80, 0, 1, 44)
	want = append(append(want, "LONG"...), long...)
	want = append(want, 1, 4, 0, 1, 0, 0, 0, 0, 1, 5, 0, 1, 0, 0, 0, 0)
	if !bytes.Equal(b, want) {
		t.Errorf("got  %q\nwant %q", b, want)
	}
}

// Whatever a server sends: at most the limit is returned, and only of an answer that ended.
func FuzzReadFCGIAnswer(f *testing.F) {
	f.Add(stdout(cgiHead + "{}"))
	f.Add(stdout("Status: 404\r\n\r\n"))
	f.Add([]byte{1, 6, 0, 1, 255, 255, 255, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 4096
		out, err := readFCGIAnswer(bytes.NewReader(b), limit)
		if err != nil {
			if out != nil {
				t.Fatalf("%q with %v", out, err)
			}
			return
		}
		if len(out) > limit || !hasEnd(b) {
			t.Fatalf("%d bytes of %q", len(out), b)
		}
		if body, err := cgiBody(out); err == nil && len(body) > len(out) {
			t.Fatalf("a body of %d bytes in %d", len(body), len(out))
		}
	})
}

// hasEnd walks over the records.
func hasEnd(b []byte) bool {
	for len(b) >= fcgiHead {
		if b[1] == fcgiEnd {
			return true
		}
		n := fcgiHead + int(binary.BigEndian.Uint16(b[4:])) + int(b[6])
		b = b[min(n, len(b)):]
	}
	return false
}

// Whatever the page says: what is taken agrees in itself.
func FuzzParseFPM(f *testing.F) {
	f.Add([]byte(page(f, "fpm.json")))
	f.Add([]byte(`{"pool":"a","total processes":1,"processes":[{"pid":1,"request uri":"\u0000"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseFPM(b)
		if err != nil {
			if !reflect.DeepEqual(s, fpmStatus{}) {
				t.Fatalf("%+v with %v", s, err)
			}
			return
		}
		if len(s.Processes) != s.Total || s.Pool == "" {
			t.Fatalf("%+v", s)
		}
		sample := fpmSample{fpmStatus: s, before: 1000, after: 1001}
		for i := range s.Processes {
			p := &s.Processes[i]
			if span := sample.span(p); span.startMin > span.startMax || sample.process(p.PID) != p {
				t.Fatalf("%+v of %+v", span, p)
			}
		}
	})
}
