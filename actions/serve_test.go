package actions

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asUser runs f in a thread of its own with another uid. The thread is not used again.
func asUser(t *testing.T, uid int, f func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		// The raw call changes this thread alone.
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
			done <- e
			return
		}
		f()
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatalf("become uid %d: %v", uid, err)
	}
}

func TestExecutorAnswersOnlyRootAndItsPeer(t *testing.T) {
	x := newTestExim(t, ourTimers)
	o := x.options()
	o.PeerUIDs = []uint32{1234}
	client := x.executor(o)
	for _, d := range []string{client.socket, filepath.Dir(client.socket), filepath.Dir(filepath.Dir(client.socket))} {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range []struct {
		uid  int
		want bool
	}{{1234, true}, {1235, false}, {65534, false}} {
		var err error
		asUser(t, row.uid, func() { _, err = client.EximVersion(t.Context()) })
		if (err == nil) != row.want {
			t.Errorf("asked as uid %d: %v; want an answer: %v", row.uid, err, row.want)
		}
	}
	if _, err := client.EximVersion(t.Context()); err != nil {
		t.Errorf("asked as root: %v", err)
	}
}

func TestExecutorBoundsRequests(t *testing.T) {
	x := newTestExim(t, ourTimers)
	client := x.executor(x.options())
	for name, request := range map[string]string{
		"no end of line":          strings.Repeat("x", maxRequest+100),
		"not JSON":                "hello\n",
		"an unknown field":        `{"verb":"exim-version","shell":"id"}` + "\n",
		"a number for the verb":   `{"verb":1}` + "\n",
		"an empty line":           "\n",
		"ids that are no strings": `{"verb":"queue-remove","ids":[1]}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("unix", client.socket)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(10 * time.Second))
			c.Write([]byte(request)) // the rest of it may be refused
			var b bytes.Buffer
			b.ReadFrom(c)
			if got := b.String(); got != "" && !strings.Contains(got, `"error"`) {
				t.Errorf("answer %.200q, want an error", got)
			}
		})
	}
}

func TestDeliveryRunsApartAndEndsWithTheExecutor(t *testing.T) {
	x := newTestExim(t, ourTimers)
	first := x.send(letter{uid: 5, gid: 60, sender: "a@b.example", answer: frozenAnswer("aaaa1111")})
	second := x.send(letter{uid: 5, gid: 60, sender: "a@b.example", answer: frozenAnswer("bbbb2222")})
	program := x.path("slow-exim")
	text := "#!/bin/sh\ncase $1 in -Mc) echo $$ >" + x.path("pid") + "; sleep 1000 & echo $! >>" + x.path("pid") + "; wait;; *) exec /usr/sbin/exim4 \"$@\";; esac\n"
	if err := os.WriteFile(program, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	o := x.options()
	o.Exim, o.DeliverGrace, o.DeliverPrefix = program, 50*time.Millisecond, []string{"/usr/bin/env", "VIA=prefix"}
	var pids []string
	t.Run("executor", func(t *testing.T) {
		client := startExecutor(t, o)
		began := time.Now()
		if rs, err := client.Deliver(t.Context(), first); err != nil || rs[0].Outcome != OutcomeDone {
			t.Fatalf("Deliver = %v, %v", rs, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("Deliver waited %v for the delivery", took)
		}
		waitFor(t, "the slow delivery", func() bool {
			b, _ := os.ReadFile(x.path("pid"))
			pids = strings.Fields(string(b))
			return len(pids) == 2
		})
		if rs, err := client.Remove(t.Context(), second); err != nil || rs[0].Outcome != OutcomeDone {
			t.Errorf("Remove beside a slow delivery = %v, %v", rs, err)
		}
	})
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %s of the delivery is left after the executor has ended", pid)
		}
	}
	if !x.ids()[first] {
		t.Error("the message whose delivery was ended is not in the queue")
	}
}

// FuzzRequest: whatever is sent, a request that passes names a verb of the list, at most a
// batch of ids of the right form, each once, and clean names of bounded length.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{`{"verb":"queue-list"}`, `{"verb":"queue-remove","ids":["1xVSHx-0004hT-1j","1xVSHx-00000000Bkb-1X4F"]}`, `{`, `{"verb":"queue-headers","ids":["../../etc/shadow"]}`,
		`{"verb":"apply","change":{"action":"block-ip","ip":"203.0.113.2","for":3600000000000,"event":1,"trigger":"client-ip"}}`,
		`{"verb":"undo","record":"abcdefghij23"}`, `{"verb":"records"}`, `{"verb":"run-script","script":{"name":"ticket","format":"json"},"body":2}` + "\n{}",
		`{"verb":"run-script","script":{"name":"../ticket"}}`, `{"verb":"queue-list","body":2}` + "\n{}"} {
		f.Add(s + "\n")
	}
	x := &executor{o: ExecutorOptions{Scripts: map[string]ScriptOptions{"ticket": {}, "../ticket": {}}}}
	verbs := []string{verbQueueList, verbQueueHeaders, verbQueueThaw, verbQueueDeliver, verbQueueRemove, verbEximOptions, verbEximVersion,
		verbApply, verbUndo, verbCheck, verbRecords, verbRunScript}
	f.Fuzz(func(t *testing.T, s string) {
		req, err := readRequest(strings.NewReader(s))
		if err != nil || x.validate(req) != nil {
			return
		}
		if !slices.Contains(verbs, req.Verb) || len(req.IDs) > MaxBatch {
			t.Fatalf("passed: %+v", req)
		}
		checkParts(t, req)
		seen := map[string]bool{}
		for _, id := range req.IDs {
			if seen[id] || strings.ContainsAny(id, "/.\n\x00 ") || strings.HasPrefix(id, "-") || len(id) < 16 || len(id) > 23 {
				t.Fatalf("passed the id %q", id)
			}
			seen[id] = true
		}
	})
}

// checkParts fails the test if a part that the verb acts on is not clean.
func checkParts(t *testing.T, req request) {
	t.Helper()
	clean := func(s string, most int, letters string) {
		if len(s) > most || strings.Trim(s, letters) != "" {
			t.Fatalf("passed %q in %+v", s, req)
		}
	}
	const names = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	switch c := req.Change; req.Verb {
	case verbApply:
		clean(c.Trigger, 64, names)
		for _, s := range []string{c.Account, c.Mailbox, c.IP} {
			if len(s) > 255 || strings.ContainsAny(s, " \t\r\n\x00\x7f") {
				t.Fatalf("passed %q in %+v", s, c)
			}
		}
		if c.For < 0 || c.For > 366*24*time.Hour || c.Event < 0 || len(c.Path) > maxPath || strings.Contains(c.Path, "\x00") {
			t.Fatalf("passed: %+v", c)
		}
	case verbUndo, verbCheck:
		clean(req.Record, 12, names)
	case verbRunScript:
		if req.Script.Name != "ticket" || len(req.Script.Report) != req.Body || req.Body > maxReport {
			t.Fatalf("passed: %+v with %d bytes", req.Script, req.Body)
		}
		clean(req.Script.Format, 4, names)
	}
	if req.Verb != verbRunScript && req.Body != 0 {
		t.Fatalf("%s passed with %d bytes behind it", req.Verb, req.Body)
	}
}
