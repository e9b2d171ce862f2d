package origin

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"osm/policy"
)

func sampleAnswer() answer {
	return answer{parentIsExim: true, processes: []policy.Process{
		{PID: 4711, UID: 1001, Executable: "/usr/sbin/exim4", WorkingDirectory: "/var/spool/exim4", Args: []string{"sendmail", "-t", "-i"}, Started: 99},
		{PID: 1, Executable: "/bin/sh", ScriptFilename: "/a.php", RemoteAddr: "192.0.2.1", RequestURI: "/a", ServerName: "a.example", HTTPHost: "b.example"},
	}}
}

func TestAnswerComesBackAsItWasSent(t *testing.T) {
	for _, tt := range []struct {
		name string
		a    answer
	}{
		{"a chain", sampleAnswer()},
		{"a process that is gone", answer{status: statusGone}},
		{"bytes that are no text", answer{processes: []policy.Process{{Args: []string{"\xff\x00\n", ""}, WorkingDirectory: "/\xfe"}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readAnswer(bytes.NewReader(appendAnswer(nil, tt.a)))
			if err != nil || !reflect.DeepEqual(got, tt.a) {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.a)
			}
		})
	}
}

func TestTheLargestAnswerFitsTheFrame(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	p := policy.Process{Executable: long, WorkingDirectory: long, ScriptFilename: long, RemoteAddr: long, RequestURI: long, ServerName: long, HTTPHost: long}
	for range 100 {
		p.Args = append(p.Args, long)
	}
	a := answer{processes: []policy.Process{p, p, p, p, p, p, p, p, p}}
	got, err := readAnswer(bytes.NewReader(appendAnswer(nil, a)))
	if err != nil || len(got.processes) != maxProcesses || len(got.processes[6].Args) != maxArgs {
		t.Errorf("got %d processes, %v; want %d", len(got.processes), err, maxProcesses)
	}
}

func TestAnswersThatAreNotOursAreRefused(t *testing.T) {
	whole := appendAnswer(nil, sampleAnswer())
	for n := range len(whole) {
		if _, err := parseAnswer(whole[4 : 4+max(0, n-4)]); err == nil {
			t.Errorf("cut to %d bytes: got no error", n)
		}
	}
	if _, err := parseAnswer(append(whole[4:len(whole):len(whole)], 0)); err == nil {
		t.Error("a byte behind the answer: got no error")
	}
	if _, err := readAnswer(bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff})); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a frame of 4 GiB: got %v, want it refused", err)
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add(appendAnswer(nil, sampleAnswer())[4:])
	f.Add(appendAnswer(nil, answer{status: statusGone})[4:])
	f.Add([]byte{0, 1, 7})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAnswer(b)
		if err != nil {
			return
		}
		if again := appendAnswer(nil, a)[4:]; !bytes.Equal(again, b) {
			t.Errorf("written again: got %q, want %q", again, b)
		}
	})
}

func FuzzParseQuestion(f *testing.F) {
	f.Add(appendQuestion(nil, question{kind: askChain, pid: 4711}))
	f.Add(appendQuestion(nil, question{kind: askOwner, uid: 1001, inode: 5}))
	f.Add(appendQuestion(nil, question{kind: askMaps}))
	f.Add(appendQuestion(nil, question{kind: askPool, name: PoolNumber("shop"), address: PoolNumber("/run/php/shop.sock")}))
	f.Add([]byte("GET / HTTP/1.0"))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := parseQuestion(b)
		if err != nil {
			return
		}
		if again := appendQuestion(nil, q); !bytes.Equal(again, b) || len(again) != questionLen {
			t.Errorf("written again: got %q, want %q", again, b)
		}
	})
}

func TestPageComesBackAsItWasSentOrNotAtAll(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status uint8
		page   string
		want   uint8
		got    string
	}{
		{"a page", statusOK, `{"pool":"shop"}`, statusOK, `{"pool":"shop"}`},
		{"an empty page", statusOK, "", statusOK, ""},
		{"the largest", statusOK, strings.Repeat("x", maxPage), statusOK, strings.Repeat("x", maxPage)},
		{"one beyond it", statusOK, strings.Repeat("x", maxPage+1), statusRefused, ""},
		{"a refusal", statusRefused, "secret", statusRefused, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := readFrame(bytes.NewReader(appendPage(nil, tt.status, []byte(tt.page))))
			if err != nil {
				t.Fatal(err)
			}
			status, page, err := parsePage(b)
			if err != nil || status != tt.want || string(page) != tt.got {
				t.Errorf("got status %d, %d bytes, %v; want %d and %d bytes", status, len(page), err, tt.want, len(tt.got))
			}
		})
	}
	old := appendAnswer(nil, answer{status: statusRefused})[4:]
	if status, page, err := parsePage(old); err != nil || status != statusRefused || page != nil {
		t.Errorf("an inspector that does not know the question: %d, %q, %v", status, page, err)
	}
}

func FuzzParsePage(f *testing.F) {
	f.Add(appendPage(nil, statusOK, []byte(`{"pool":"shop"}`))[4:])
	f.Add(appendPage(nil, statusRefused, nil)[4:])
	f.Add(appendAnswer(nil, answer{status: statusRefused})[4:])
	f.Fuzz(func(t *testing.T, b []byte) {
		status, page, err := parsePage(b)
		switch {
		case err != nil || status != statusOK:
			if page != nil {
				t.Errorf("status %d, %v with a page of %d bytes", status, err, len(page))
			}
		case !bytes.Equal(appendPage(nil, status, page)[4:], b):
			t.Errorf("written again it is not %q", b)
		}
	})
}
