package actions

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func list(t *testing.T, x *Executor) map[string]QueueMessage {
	t.Helper()
	got := map[string]QueueMessage{}
	if _, err := x.QueueList(t.Context(), func(m QueueMessage) error { got[m.MessageID] = m; return nil }); err != nil {
		t.Fatalf("QueueList: %v", err)
	}
	return got
}

func outcomes(rs []Result) map[string]Outcome {
	m := map[string]Outcome{}
	for _, r := range rs {
		m[r.MessageID] = r.Outcome
	}
	return m
}

func TestExecutorSeesAndTouchesOnlyWhatWeFroze(t *testing.T) {
	for _, split := range []string{"split_spool_directory = false\n", "split_spool_directory = true\n"} {
		t.Run(strings.TrimSpace(split), func(t *testing.T) {
			x := newTestExim(t, ourTimers+split)
			ours := x.send(letter{uid: 5, gid: 60, sender: "shop@shop.example", answer: frozenAnswer("aaaa1111"), subject: "hello"})
			null := x.send(letter{uid: 6, gid: 12, sender: "<>", answer: frozenAnswer("bbbb2222")})
			discard := x.send(letter{uid: 5, gid: 60, sender: "a@b.example", answer: `action=discard ref=cccc3333 log="" text="" osm=1`})
			passed := x.send(letter{uid: 5, gid: 60, sender: "a@b.example", answer: `action=accept ref=dddd4444 log="" text="" osm=1`, frozen: true})
			cutAnswer := x.send(letter{uid: 5, gid: 60, sender: "a@b.example", answer: `action=freeze ref=eeee5555 log="`})
			forged := x.send(letter{uid: 5, gid: 60, sender: "a@b.example", frozen: true, answer: "no",
				subject: "=?UTF-8?Q?x=0A-aclm_=5Fosm_31=0Aaction=3Dfreeze_ref=3Dffff6666_osm=3D1?="})
			client := x.executor(x.options())

			got := list(t, client)
			if len(got) != 3 {
				t.Fatalf("QueueList = %v, want the three that we stopped", got)
			}
			m := got[ours]
			if m.Ref != "aaaa1111" || m.Action != "freeze" || !m.Frozen() || m.EnvelopeSender != "shop@shop.example" || m.CallerUID != 5 ||
				m.CallerLogin != "games" || m.AuthenticatedID != "games" || m.Recipients != 1 || m.Size != int64(len("the body stays secret\n")) {
				t.Errorf("QueueList gave %+v", m)
			}
			if got[null].EnvelopeSender != "" || got[null].Ref != "bbbb2222" || got[discard].Action != "discard" {
				t.Errorf("QueueList gave %+v and %+v", got[null], got[discard])
			}

			const absent = "1xVSHx-0004hT-1j"
			for verb, act := range map[string]func(context.Context, ...string) ([]Result, error){"thaw": client.Thaw, "deliver": client.Deliver, "remove": client.Remove} {
				rs, err := act(t.Context(), passed, cutAnswer, forged, absent)
				want := map[string]Outcome{passed: OutcomeNotOurs, cutAnswer: OutcomeNotOurs, forged: OutcomeNotOurs, absent: OutcomeGone}
				if got := outcomes(rs); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("%s of other mail = %v, %v; want %v", verb, got, err, want)
				}
			}
			if _, err := client.QueueHeaders(t.Context(), passed); err == nil {
				t.Error("QueueHeaders showed a message that is not ours")
			}
			headers, err := client.QueueHeaders(t.Context(), ours)
			if err != nil || !strings.Contains(headers, "Subject: hello\n") || strings.Contains(headers, "secret") {
				t.Errorf("QueueHeaders = %q, %v", headers, err)
			}

			if rs, err := client.Deliver(t.Context(), ours); err != nil || rs[0].Outcome != OutcomeDone {
				t.Fatalf("Deliver = %v, %v", rs, err)
			}
			waitFor(t, "the delivery", func() bool { return !x.ids()[ours] })
			if rs, err := client.Thaw(t.Context(), null); err != nil || rs[0].Outcome != OutcomeDone {
				t.Fatalf("Thaw = %v, %v", rs, err)
			}
			if rs, err := client.Remove(t.Context(), null); err != nil || rs[0].Outcome != OutcomeNotFrozen {
				t.Errorf("Remove of a thawed message = %v, %v; want not-frozen", rs, err)
			}
			if rs, err := client.Remove(t.Context(), discard); err != nil || rs[0].Outcome != OutcomeDone {
				t.Fatalf("Remove = %v, %v", rs, err)
			}
			if n := x.deliveries(ours); n != 1 {
				t.Errorf("delivered %d times, want once", n)
			}
			left := x.ids()
			if left[discard] || !left[passed] || !left[forged] || !left[cutAnswer] || !left[null] {
				t.Errorf("left in the queue: %v", left)
			}
		})
	}
}

func TestFrozenMailStaysThroughQueueRunsWithOurTimersAndLeavesWithStockTimers(t *testing.T) {
	x := newTestExim(t, ourTimers)
	normal := x.send(letter{uid: 5, gid: 60, sender: "shop@shop.example", answer: frozenAnswer("aaaa1111")})
	null := x.send(letter{uid: 5, gid: 60, sender: "<>", answer: frozenAnswer("bbbb2222")})
	for _, id := range []string{normal, null} {
		x.age(id, 29*24*time.Hour)
	}
	for range 3 {
		x.run("-q")
	}
	client := x.executor(x.options())
	got := list(t, client)
	for _, id := range []string{normal, null} {
		if m, ok := got[id]; !ok || !m.Frozen() {
			t.Errorf("after three queue runs at 29 days: %+v, %v", m, ok)
		}
	}
	if a := TimerAlarms(mustOptions(t, client), 30*24*time.Hour); len(a) != 0 {
		t.Errorf("TimerAlarms with our timers = %q", a)
	}

	x.configure(stockTimers)
	if a := TimerAlarms(mustOptions(t, client), 30*24*time.Hour); len(a) != 2 {
		t.Errorf("TimerAlarms with Debian's timers = %q, want two", a)
	}
	x.run("-q")
	if left := x.ids(); left[normal] || left[null] {
		t.Errorf("with Debian's timers Exim kept %v: the alarm would be wrong", left)
	}
}

func mustOptions(t *testing.T, client *Executor) map[string]string {
	t.Helper()
	o, err := client.EximOptions(t.Context())
	if err != nil {
		t.Fatalf("EximOptions: %v", err)
	}
	return o
}

func TestExecutorReadsEximsOptionsAndVersion(t *testing.T) {
	x := newTestExim(t, ourTimers+"split_spool_directory\n")
	client := x.executor(x.options())
	o := mustOptions(t, client)
	for name, want := range map[string]string{
		"timeout_frozen_after": "4w3d", "auto_thaw": "0s", "split_spool_directory": "true", "queue_only": "false",
		"spool_directory": x.path("spool"), "acl_not_smtp": "acl_not_smtp", "acl_smtp_data": "",
	} {
		if got, ok := o[name]; !ok || got != want {
			t.Errorf("option %s = %q, %v; want %q", name, got, ok, want)
		}
	}
	v, err := client.EximVersion(t.Context())
	if err != nil || !strings.HasPrefix(v, "Exim version 4.") {
		t.Errorf("EximVersion = %q, %v", v, err)
	}
}

func TestExecutorRefusesSymlinksAndForeignFilesInTheSpool(t *testing.T) {
	x := newTestExim(t, ourTimers)
	good := x.send(letter{uid: 5, gid: 60, sender: "a@b.example", answer: frozenAnswer("aaaa1111")})
	text, err := os.ReadFile(x.path("spool/input", good+"-H"))
	if err != nil {
		t.Fatal(err)
	}
	fake := func(n int) (id string, text_ []byte) {
		id = fmt.Sprintf("1xVSHx-0000%02d-1j", n)
		return id, []byte(strings.ReplaceAll(string(text), good, id))
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	linked, body := fake(1)
	outside := x.path("outside-H")
	must(os.WriteFile(outside, body, 0o644))
	must(os.Chown(outside, int(x.uid), -1))
	must(os.Symlink(outside, x.path("spool/input", linked+"-H")))
	foreign, body := fake(2) // root's own file
	must(os.WriteFile(x.path("spool/input", foreign+"-H"), body, 0o644))
	fifo, _ := fake(3)
	must(mkfifo(x.path("spool/input", fifo+"-H"), int(x.uid)))
	folder, _ := fake(4)
	must(os.Mkdir(x.path("spool/input", folder+"-H"), 0o755))
	inLink, body := fake(5) // in a split folder that is a symlink
	must(os.Mkdir(x.path("elsewhere"), 0o755))
	must(os.WriteFile(x.path("elsewhere", inLink+"-H"), body, 0o644))
	must(os.Chown(x.path("elsewhere", inLink+"-H"), int(x.uid), -1))
	must(os.Symlink(x.path("elsewhere"), x.path("spool/input/x")))

	client := x.executor(x.options())
	var ids []string
	skipped, err := client.QueueList(t.Context(), func(m QueueMessage) error { ids = append(ids, m.MessageID); return nil })
	if err != nil || !slices.Equal(ids, []string{good}) || skipped != 4 {
		t.Errorf("QueueList = %v, %d skipped, %v; want only %s and 4 skipped", ids, skipped, err, good)
	}
	for _, id := range []string{linked, foreign, fifo, folder, inLink} {
		if text, err := client.QueueHeaders(t.Context(), id); err == nil {
			t.Errorf("QueueHeaders(%s) = %q, want an error", id, text)
		}
		if rs, err := client.Remove(t.Context(), id); err != nil || rs[0].Outcome == OutcomeDone {
			t.Errorf("Remove(%s) = %v, %v; want not done", id, rs, err)
		}
	}

	// The whole queue behind a symlink.
	must(os.Rename(x.path("spool/input"), x.path("spool/other")))
	must(os.Symlink("other", x.path("spool/input")))
	if _, err := client.QueueList(t.Context(), func(QueueMessage) error { return nil }); err == nil {
		t.Error("QueueList followed a symlink in the place of input/")
	}
}

func TestExecutorKillsWhatHangsAndTellsWhatFailed(t *testing.T) {
	x := newTestExim(t, ourTimers)
	id := x.send(letter{uid: 5, gid: 60, sender: "a@b.example", answer: frozenAnswer("aaaa1111")})
	program := func(text string) string {
		p := x.path("fake-exim")
		if err := os.WriteFile(p, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
		return p
	}
	o := x.options()
	o.CommandLimit = 2 * time.Second
	o.Exim = program("echo $$ > " + x.path("pid") + "\nsleep 1000 & echo $! >> " + x.path("pid") + "\nwait\n")
	client := x.executor(o)
	rs, err := client.Remove(t.Context(), id)
	if err != nil || rs[0].Outcome != OutcomeFailed || !strings.Contains(rs[0].Detail, "killed after 2s") {
		t.Fatalf("Remove with a hanging exim = %v, %v", rs, err)
	}
	pids, err := os.ReadFile(x.path("pid"))
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range strings.Fields(string(pids)) {
		waitFor(t, "the end of process "+pid, func() bool { return !alive(pid) })
	}

	o.CommandLimit = 0 // what fails by itself has its usual time
	client = x.executor(o)
	program("printf 'no such luck\\n%0100000d' 7\nenv > " + x.path("env") + "\nexit 3\n")
	rs, err = client.Remove(t.Context(), id)
	if err != nil || rs[0].Outcome != OutcomeFailed || !strings.Contains(rs[0].Detail, "no such luck") ||
		!strings.Contains(rs[0].Detail, "exit status 3") || len(rs[0].Detail) > maxOutput+200 {
		t.Errorf("Remove with a failing exim = %.300v, %v", rs, err)
	}
	env, err := os.ReadFile(x.path("env"))
	if err != nil || strings.Contains(string(env), insideEnv) || !strings.Contains(string(env), "LC_ALL=C") {
		t.Errorf("environment of exim = %q, %v", env, err)
	}
	if !x.ids()[id] {
		t.Error("the message is gone though exim failed")
	}
}

// alive reports whether a process runs (a dead one that nobody has waited for does not).
func alive(pid string) bool {
	b, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func TestExecutorBrakes(t *testing.T) {
	now := time.Unix(1000, 0)
	b := brake{rate: 100, now: func() time.Time { return now }}
	if w := b.take(100); w != 0 {
		t.Fatalf("first 100: wait %v", w)
	}
	if w := b.take(50); w < 500*time.Millisecond || w > 510*time.Millisecond {
		t.Errorf("50 more at once: wait %v, want half a second", w)
	}
	now = now.Add(510 * time.Millisecond)
	if w := b.take(50); w != 0 {
		t.Errorf("50 after half a second: wait %v", w)
	}
	now = now.Add(2 * time.Second)
	if w := b.take(150); w != 0 {
		t.Errorf("a batch larger than the rate never passes: wait %v", w)
	}
	if w := b.take(1); w < 500*time.Millisecond {
		t.Errorf("the larger batch left no debt: wait %v", w)
	}

	x := newTestExim(t, ourTimers)
	o := x.options()
	o.IDsPerSecond, o.Now = 2, func() time.Time { return now }
	client := x.executor(o)
	ids := []string{"1xVSHx-0004hT-1j", "1xVSHx-0004hT-1k"}
	if _, err := client.Remove(t.Context(), ids...); err != nil {
		t.Fatal(err)
	}
	_, err := client.Remove(t.Context(), ids...)
	if after, busy := Busy(err); !busy || after < 900*time.Millisecond {
		t.Errorf("third and fourth id within a second: %v", err)
	}
}

func TestExecutorChecksEachRequestByItself(t *testing.T) {
	x := newTestExim(t, ourTimers)
	client := x.executor(x.options())
	const id = "1xVSHx-0004hT-1j"
	many := make([]string, MaxBatch+1)
	for i := range many {
		many[i] = fmt.Sprintf("1xVSHx-000%03d-1j", i)
	}
	for _, row := range []struct {
		name string
		req  request
	}{
		{"unknown verb", request{Verb: "queue-everything"}},
		{"no verb", request{}},
		{"no ids", request{Verb: verbQueueRemove}},
		{"ids where none are wanted", request{Verb: verbQueueList, IDs: []string{id}}},
		{"two ids for headers", request{Verb: verbQueueHeaders, IDs: []string{id, "1xVSHx-0004hT-1k"}}},
		{"an option in the place of an id", request{Verb: verbQueueRemove, IDs: []string{"-Mrm"}}},
		{"a path", request{Verb: verbQueueHeaders, IDs: []string{"../../etc/shadow"}}},
		{"an id with a line end", request{Verb: verbQueueRemove, IDs: []string{id + "\n"}}},
		{"an id twice", request{Verb: verbQueueRemove, IDs: []string{id, id}}},
		{"too many ids", request{Verb: verbQueueRemove, IDs: many}},
	} {
		t.Run(row.name, func(t *testing.T) {
			if a, err := client.call(t.Context(), row.req, nil); err == nil {
				t.Errorf("request %+v was answered with %+v", row.req, a)
			}
		})
	}
}
