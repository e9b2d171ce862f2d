package door

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"osm/tests/lab"
)

// What osmctl prints with --json, by the names that are promised.
type (
	decision struct {
		Ref              string `json:"ref"`
		MessageID        string `json:"message_id"`
		Source           string `json:"source"`
		Account          string `json:"account"`
		Mailbox          string `json:"mailbox"`
		Basis            string `json:"basis"`
		WorkingDirectory string `json:"working_directory"`
		Script           string `json:"script"`
		EnvelopeSender   string `json:"envelope_sender"`
		Subject          string `json:"subject"`
		Recipients       int64  `json:"recipients"`
		Verdict          string `json:"verdict"`
		Would            string `json:"would"`
		Reason           string `json:"reason"`
		Trigger          string `json:"trigger"`
		Missed           uint64 `json:"missed"` // of a line of tail
		Over             []over `json:"over"`
	}
	over struct {
		Trigger string `json:"trigger"`
		Key     string `json:"key"`
		Used    int64  `json:"used"`
		Max     int64  `json:"max"`
	}
	usage struct {
		Trigger string     `json:"trigger"`
		Watch   string     `json:"watch"`
		Key     string     `json:"key"`
		Used    int64      `json:"used"`
		Max     int64      `json:"max"`
		FreeAt  *time.Time `json:"free_at"`
	}
	event struct {
		ID      int64  `json:"id"`
		Trigger string `json:"trigger"`
		Key     string `json:"key"`
		Account string `json:"account"`
		Mode    string `json:"mode"`
		Used    int64  `json:"used"`
		Max     int64  `json:"max"`
		Stopped int64  `json:"stopped"`
	}
	hold struct {
		ID      int64  `json:"id"`
		Scope   string `json:"scope"`
		Account string `json:"account"`
		Value   string `json:"value"`
		Trigger string `json:"trigger"`
	}
	held struct {
		Ref       string `json:"ref"`
		MessageID string `json:"message_id"`
		Account   string `json:"account"`
		State     string `json:"state"`
		Trigger   string `json:"trigger"`
		By        string `json:"by"`

		HeldAt time.Time `json:"held_at"`
	}
	explanation struct {
		Decision decision `json:"decision"`
		Event    *event   `json:"event"`
		Usage    []usage  `json:"usage"`
		Held     *held    `json:"held"`
		Why      string   `json:"why"`
		Next     string   `json:"next"`
		Command  string   `json:"command"`
	}
)

// ask runs osmctl with --json; it must do what it is asked.
func (w *world) ask(t *testing.T, into any, args ...string) {
	t.Helper()
	if err := w.JSON(into, args...); err != nil {
		t.Fatal(err)
	}
}

// do runs osmctl for its effect.
func (w *world) do(t *testing.T, args ...string) {
	t.Helper()
	var any map[string]any
	w.ask(t, &any, args...)
}

// list asks for a list and returns all of it.
func list[T any](t *testing.T, w *world, args ...string) []T {
	t.Helper()
	var all []T
	after := ""
	for {
		var l struct {
			Items []T    `json:"items"`
			Next  string `json:"next"`
		}
		w.ask(t, &l, append(args, "--limit", "1000", "--after", after)...)
		all = append(all, l.Items...)
		if after = l.Next; after == "" {
			return all
		}
	}
}

// counted is what every counter of an account holds, by trigger and key; those that hold
// nothing are left out.
func (w *world) counted(t *testing.T, account string) map[string]int64 {
	t.Helper()
	out := map[string]int64{}
	for _, u := range list[usage](t, w, "usage", account) {
		if u.Used != 0 {
			out[u.Trigger+"/"+u.Key] = u.Used
		}
	}
	return out
}

// limitOf sets how much of a trigger an account may send.
func (w *world) limitOf(t *testing.T, account, trigger string, n int) {
	t.Helper()
	w.do(t, "limit", "set", "--account", account, "--trigger", trigger, "--max", fmt.Sprint(n))
}

// frozen lists the message ids in Exim's queue that are frozen and bear the Subject.
func frozen(t *testing.T, subject string) []string {
	t.Helper()
	queue, err := machine.ReadQueue()
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, q := range queue {
		if q.Frozen && q.Subject == subject {
			ids = append(ids, q.ID)
		}
	}
	return ids
}

// came waits until so many messages of the Subject have reached the sink and so many are
// frozen in Exim's queue; together they must be all that were sent.
func came(t *testing.T, subject string, delivered, stopped int) {
	t.Helper()
	err := lab.WaitFor(20*time.Second, "the mail "+subject, func() error {
		d, f := machine.Sink.Count("Subject", subject), len(frozen(t, subject))
		if d != delivered || f != stopped {
			return fmt.Errorf("%d delivered and %d frozen, want %d and %d", d, f, delivered, stopped)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%v; Exim found no answer for:\n%s", err, strings.Join(machine.LogLines("OSM unavailable"), "\n"))
	}
}

// settled waits until all messages of the Subject that were taken are delivered or frozen.
func settled(t *testing.T, subject string, taken int) (delivered, stopped int) {
	t.Helper()
	eventually(t, 20*time.Second, "all mail "+subject, func() error {
		delivered, stopped = machine.Sink.Count("Subject", subject), len(frozen(t, subject))
		if delivered+stopped != taken {
			return fmt.Errorf("%d delivered and %d frozen of %d", delivered, stopped, taken)
		}
		return nil
	})
	return delivered, stopped
}

// unchecked is how many messages were let pass and marked as unchecked so far: by Exim,
// which got no answer, or by the daemon, which was starved by a busy machine.
func (w *world) unchecked(t *testing.T) int {
	t.Helper()
	s, err := w.Status()
	if err != nil {
		t.Fatal(err)
	}
	return int(s.Unchecked) + len(w.eximLog("OSM unavailable"))
}

// explain asks why; a decision is stored a moment after its answer.
func (w *world) explain(t *testing.T, ref string) explanation {
	t.Helper()
	var x explanation
	eventually(t, 5*time.Second, "the explanation of "+ref, func() error {
		return w.JSON(&x, "explain", ref)
	})
	return x
}

// eximLog returns the lines that Exim logged in this test and that hold all the words.
func (w *world) eximLog(words ...string) []string {
	return machine.LogLinesFrom(w.logFrom, words...)
}

// only fails the test unless got holds exactly the wanted counters, where those whose name
// begins with one of ignore do not matter.
func only(t *testing.T, whose string, got, want map[string]int64, ignore ...string) {
	t.Helper()
	for key, n := range got {
		if want[key] != n && !begins(key, ignore) {
			t.Errorf("%s: counter %s is %d, want %d", whose, key, n, want[key])
		}
	}
	for key, n := range want {
		if _, there := got[key]; !there && n != 0 {
			t.Errorf("%s: counter %s is not there, want %d", whose, key, n)
		}
	}
}

func begins(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}
