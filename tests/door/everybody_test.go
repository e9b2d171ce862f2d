package door

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"osm/tests/lab"
)

// tail follows the decisions until the test ends.
type tail struct {
	mu        sync.Mutex // guards what follows
	decisions []decision
	missed    uint64
	err       error
}

// follow starts a tail and waits until it is listening: the daemon says so with an idle
// line, which osmctl tail keeps to itself.
func (w *world) follow(t *testing.T) *tail {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", machine.ControlSocket())
	}}}
	ctx, cancel := context.WithCancel(context.Background())
	asking, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://osm/v1/tail", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(asking) // returns with the first line
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatal("the stream of decisions: ", resp.Status)
	}
	f, done := &tail{}, make(chan struct{})
	go func() {
		defer close(done)
		f.read(bufio.NewScanner(resp.Body))
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		resp.Body.Close()
		client.CloseIdleConnections()
	})
	return f
}

func (f *tail) read(lines *bufio.Scanner) {
	for lines.Scan() {
		var d decision
		err := json.Unmarshal(lines.Bytes(), &d)
		f.mu.Lock()
		if err != nil {
			f.err = fmt.Errorf("the stream holds %.200q: %w", lines.Text(), err)
		}
		f.missed += d.Missed
		if d.Ref != "" {
			f.decisions = append(f.decisions, d)
		}
		f.mu.Unlock()
	}
}

// wait waits until n decisions were seen, and returns them.
func (f *tail) wait(t *testing.T, n int) []decision {
	t.Helper()
	var all []decision
	eventually(t, 20*time.Second, fmt.Sprint(n, " decisions in the stream"), func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.err != nil || f.missed > 0 {
			t.Fatalf("the stream: %v, %d missed", f.err, f.missed)
		}
		all = f.decisions
		if len(all) < n {
			return fmt.Errorf("%d so far", len(all))
		}
		return nil
	})
	return all
}

// Each message says in its Subject who sends it and how; nothing else that the product
// sees names the sender: the envelope sender and Header From are always a neighbour's.
func TestFiftyAccountsSendingAtOnceByEveryPathAreEachChargedTheirOwn(t *testing.T) {
	const accounts, each = 50, 2
	w := start(t)
	seen := w.follow(t)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	err := atOnce(accounts, func(i int) error {
		account, neighbour := machine.Accounts[i], machine.Accounts[(i+1)%accounts]
		for k := range paths() {
			p := paths()[(i+k)%len(paths())] // all paths at any time
			m := lab.Mail{
				From: "box@" + machine.Domain(neighbour), To: []string{"a@elsewhere.example", "b@elsewhere.example"},
				Subject: account + " by " + p.name, Header: []string{"Sender: box@" + machine.Domain(neighbour)},
			}
			if err := p.send(ctx, account, each, m); err != nil {
				return fmt.Errorf("%s by %s: %w", account, p.name, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	total := accounts * each * len(paths())
	unanswered := len(w.eximLog("OSM unavailable")) // by a machine that is too busy
	spared := w.chargedRightly(t, seen.wait(t, total-unanswered))
	missing := int64(0)
	for i, account := range machine.Accounts {
		n := int64(0)
		if i < accounts {
			n = each * int64(len(paths()))
		}
		got := w.counted(t, account)
		messages := got["messages/"+account]
		if messages > n || got["recipients/"+account] != 2*messages {
			t.Errorf("%s: counted %v, want %d messages and %d recipients", account, got, n, 2*n)
		}
		missing += n - messages
		for key, used := range got {
			name := key[strings.IndexByte(key, '/')+1:]
			if name == "" || (name != account && !strings.HasPrefix(name, account+" ")) || used <= 0 {
				t.Errorf("%s: counter %q of %d", account, key, used)
			}
		}
	}
	if missing > int64(spared+unanswered) || spared+unanswered > total/50 {
		t.Errorf("%d messages are charged to nobody; %d were let pass unchecked, and for %d Exim found no answer", missing, spared, unanswered)
	}
	if got := w.counted(t, "(unknown)"); spared == 0 && len(got) != 0 {
		t.Errorf("counted for nobody: %v", got)
	}
}

// chargedRightly checks each decision by the Subject. It returns how many messages a
// machine that is too busy let pass unchecked without a look at whose they are.
func (w *world) chargedRightly(t *testing.T, decisions []decision) (spared int) {
	t.Helper()
	source := map[string]string{}
	for _, p := range paths() {
		source[p.name] = p.source
	}
	for _, d := range decisions {
		account, by, _ := strings.Cut(d.Subject, " by ")
		unchecked := d.Reason == "overload" || d.Reason == "unanswered"
		switch {
		case d.Account == account && d.Source == source[by] && d.Verdict == "accept" && (d.Reason == "within_limits" || unchecked) && d.Basis != "":
		case unchecked && d.Account == "(unknown)":
			spared++
		default:
			t.Errorf("%q is charged to %q as %s (%s; %s, %s)", d.Subject, d.Account, d.Source, d.Basis, d.Verdict, d.Reason)
		}
	}
	return spared
}
