package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"osm/internal/control"
	"osm/tests/lab"
)

func version(d *lab.Daemon) string {
	var s control.Status
	if err := d.JSON(&s, "status"); err != nil {
		return "(unknown version)"
	}
	return s.Version
}

// teller prints the first message that is stopped of each kind, as it happens.
type teller struct {
	mu   sync.Mutex
	seen map[string]bool
	ref  string // of the first one stopped
}

// newTeller follows the decisions until the daemon ends.
func newTeller(socket string) *teller {
	t := &teller{seen: map[string]bool{}}
	client := control.NewClient(socket)
	go func() { // ends with the stream
		_ = client.Tail(context.Background(), control.Query{}, func(line control.TailLine) error {
			t.tell(&line)
			return nil
		})
	}()
	return t
}

func (t *teller) tell(line *control.TailLine) {
	d := line.Decision
	if d == nil || d.Verdict == "accept" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	key := d.Account + d.Mailbox + d.WorkingDirectory + d.Reason + d.Trigger
	if t.seen[key] {
		return
	}
	t.seen[key] = true
	if t.ref == "" {
		t.ref = d.Ref
	}
	who := d.Account
	if d.Mailbox != "" {
		who = d.Mailbox
	}
	why := "over " + d.Trigger
	if d.Reason == "hold" {
		why = "a hold stands since it went over " + d.Trigger
	}
	fmt.Printf("%s  %-7s %-20s %s; ref %s\n", d.At.Local().Format("15:04:05.000"), d.Verdict, who, why, d.Ref)
	fmt.Printf("%14sbasis: %s\n", "", d.Basis)
}

// outcome is what became of an account's messages.
type outcome struct{ arrived, held int }

// report waits until the queue is quiet and compares what happened with what should have.
func report(ctx context.Context, l *lab.Lab) (bool, error) {
	got := map[string]outcome{}
	err := lab.WaitFor(90*time.Second, "all deliveries", func() error {
		if ctx.Err() != nil {
			return nil
		}
		var err error
		if got, err = outcomes(l); err != nil {
			return err
		}
		for _, r := range cast() {
			if g := got[r.account]; g.arrived+g.held < r.sends {
				return fmt.Errorf("%s: %d of %d messages arrived, %d held", r.account, g.arrived, r.sends, g.held)
			}
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	fmt.Println()
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "ACCOUNT\tSENT\tARRIVED\tHELD\tAS IT SHOULD\tWHY")
	all := true
	for _, r := range cast() {
		g := got[r.account]
		right := "yes"
		if g.arrived != r.arrive || g.held != r.held {
			right, all = fmt.Sprintf("NO: %d and %d expected", r.arrive, r.held), false
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\n", r.account, r.sends, g.arrived, g.held, right, r.why)
	}
	return all, w.Flush()
}

// outcomes counts deliveries in the sink, and held mail as osmctl lists it.
func outcomes(l *lab.Lab) (map[string]outcome, error) {
	got := map[string]outcome{}
	for _, m := range l.Sink.Deliveries() {
		for _, r := range cast() {
			if strings.Contains(m.Header.Get("From"), "@"+l.Domain(r.account)) ||
				r.account == "forward" && strings.Contains(m.Header.Get("From"), "stranger@") {
				g := got[r.account]
				g.arrived++
				got[r.account] = g
				break
			}
		}
	}
	for _, r := range cast() {
		n, err := heldBy(l, r.account)
		if err != nil {
			return nil, err
		}
		g := got[r.account]
		g.held = n
		got[r.account] = g
	}
	return got, nil
}

func heldBy(l *lab.Lab, account string) (int, error) {
	client := control.NewClient(l.ControlSocket())
	defer client.Close()
	list, err := client.Held(context.Background(), control.Query{Limit: 1000, Where: map[string]string{"account": account}})
	return len(list.Items), err
}

func tryIt(l *lab.Lab, bin string, t *teller, p *page) {
	t.mu.Lock()
	ref := t.ref
	t.mu.Unlock()
	ctl := bin + "/osmctl -socket " + l.ControlSocket()
	if wd, err := os.Getwd(); err == nil {
		ctl = strings.Replace(ctl, wd+"/", "", 1)
	}
	fmt.Printf("\nIt goes on running. In the browser: find out who was hacked, why his mail stopped, and release what\nhis visitors wrote (%q). The link again:\n\n  %s\n\nor a new one, if that was used, in another terminal (as root):\n\n", question, p.link)
	for _, args := range []string{"web link --listen " + p.listen, "status", "explain " + ref, "usage stolen", "held list --account hacked", "connections"} {
		fmt.Printf("  %s %s\n", ctl, args)
	}
	fmt.Print("\nCtrl-C stops it.\n")
}
