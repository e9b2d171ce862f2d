package faults

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"osm/tests/lab"
)

// storm is 200 messages of a script and 200 by SMTP, sent at the same time, with some in
// between that are never asked about: those tell how long a submission takes at that
// moment on this machine anyway.
type storm struct {
	each    int           // of both kinds; 0 = 200
	scripts int           // of the script besides
	atOnce  int           // 0 = 8
	every   time.Duration // one is begun so often; 0 = as soon as another has ended

	login, password string // of those by SMTP; "" = the shop's mailbox
}

// patient is for faults that make each submission wait: many wait at once, and they are
// begun at a pace that this machine's two processors follow easily.
func patient() storm { return storm{atOnce: 200, every: 10 * time.Millisecond} }

// sent is one submission.
type sent struct {
	subject string
	script  bool
	control bool // never asked about
	took    time.Duration
	err     error
}

// sentAll is what came of a storm.
type sentAll []sent

// controlEvery: one in so many is a control.
const controlEvery = 10

// run sends everything and waits for the end of it.
func (s storm) run(t *testing.T) sentAll {
	t.Helper()
	if s.each == 0 {
		s.each = 200
	}
	if s.atOnce == 0 {
		s.atOnce = 8
	}
	if s.login == "" {
		s.login, s.password = machine.Login(smtpAccount)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var list sentAll
	for i := range s.each {
		list = append(list, sent{script: true, subject: fmt.Sprintf("%s script %d", t.Name(), i)},
			sent{subject: fmt.Sprintf("%s smtp %d", t.Name(), i)})
		if i%controlEvery == 0 {
			list = append(list, sent{script: true, control: true, subject: fmt.Sprintf("%s control script %d", t.Name(), i)},
				sent{control: true, subject: fmt.Sprintf("%s control smtp %d", t.Name(), i)})
		}
	}
	for i := range s.scripts {
		list = append(list, sent{script: true, subject: fmt.Sprintf("%s more %d", t.Name(), i)})
	}
	var pace <-chan time.Time
	if s.every > 0 {
		tick := time.NewTicker(s.every)
		defer tick.Stop()
		pace = tick.C
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, s.atOnce)
	for i := range list {
		if pace != nil {
			<-pace
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			list[i].submit(ctx, s.login, s.password)
		})
	}
	wg.Wait()
	return list
}

// submit sends one message and measures it.
func (m *sent) submit(ctx context.Context, login, password string) {
	mail := lab.Mail{From: "info@spam.example", To: []string{"reader@elsewhere.example"}, Subject: m.subject}
	began := time.Now()
	switch {
	case m.script && m.control: // as Exim's own bounces
		mail.From = ""
		m.err = machine.Sendmail(ctx, "Debian-exim", "/", mail)
	case m.script:
		m.err = machine.Sendmail(ctx, scriptAccount, machine.HomeOf(scriptAccount), mail)
	case m.control: // comes in from outside
		mail.To = []string{"info@" + machine.Domain(thirdAccount)}
		m.err = smtp(ctx, lab.StrangerIP, "", "", mail)
	default:
		mail.From = "info@" + machine.Domain(smtpAccount)
		m.err = smtp(ctx, "", login, password, mail)
	}
	m.took = time.Since(began)
}

// smtp sends one message on a connection of its own.
func smtp(ctx context.Context, clientIP, login, password string, m lab.Mail) error {
	s, err := machine.Dial(ctx, clientIP, login, password)
	if err != nil {
		return err
	}
	defer s.Hangup()
	return s.Send(m)
}

// accepted fails the test unless Exim took every message.
func (l sentAll) accepted(t *testing.T) {
	t.Helper()
	bad := 0
	for _, m := range l {
		if m.err != nil {
			if bad++; bad <= 5 {
				t.Errorf("%s: not accepted: %v", m.subject, m.err)
			}
		}
	}
	if bad > 5 {
		t.Errorf("%d of %d messages were not accepted", bad, len(l))
	}
}

// notLost fails the test unless every message that was accepted stands once in the queue
// or has reached the sink once. It returns how many of the script's and of the shop's
// are frozen.
func (l sentAll) notLost(t *testing.T) (frozenScript, frozenSMTP int) {
	t.Helper()
	queue, err := machine.ReadQueue()
	if err != nil {
		t.Fatal(err)
	}
	found, frozen := map[string]int{}, map[string]bool{}
	for _, q := range queue {
		found[q.Subject]++
		frozen[q.Subject] = q.Frozen
	}
	for _, d := range machine.Sink.Deliveries() {
		found[d.Header.Get("Subject")]++
	}
	lost := 0
	for _, m := range l {
		want := 1
		if m.err != nil {
			want = 0
		}
		if got := found[m.subject]; got != want {
			if lost++; lost <= 5 {
				t.Errorf("%s (error %v): %d in queue and sink, want %d", m.subject, m.err, got, want)
			}
		}
		switch {
		case m.control && frozen[m.subject]:
			t.Errorf("%s: frozen, though nobody was to be asked about it", m.subject)
		case frozen[m.subject] && m.script:
			frozenScript++
		case frozen[m.subject]:
			frozenSMTP++
		}
	}
	if lost > 5 {
		t.Errorf("%d messages lost or doubled", lost)
	}
	return frozenScript, frozenSMTP
}

// noneFrozen fails the test if anything is.
func (l sentAll) noneFrozen(t *testing.T) {
	t.Helper()
	if a, b := l.notLost(t); a+b > 0 {
		t.Errorf("%d messages of scripts and %d by SMTP are frozen, want none", a, b)
	}
}

// eximTimeout is what the ACL waits for an answer.
const eximTimeout = time.Second

// later fails the test if a message came later than the fault table promises, compared
// with those of the same kind that nobody was asked about. With 0 nobody may have waited
// for a timeout: the typical message not for half of it, and no other for all of it. One
// in fifty is left out, which a busy machine may have kept waiting; the log tells the slowest.
func (l sentAll) later(t *testing.T, by time.Duration) {
	t.Helper()
	for _, script := range []bool{true, false} {
		kind := map[bool]string{true: "script", false: "SMTP"}[script]
		asked, control := l.times(script, false), l.times(script, true)
		if len(asked) == 0 || len(control) == 0 {
			t.Fatalf("%s: %d messages and %d controls: nothing to compare", kind, len(asked), len(control))
		}
		most, usual := control[len(control)-1], control[len(control)/2]
		median := asked[len(asked)/2]
		t.Logf("%s: median %v, slowest %v; not asked about: median %v, slowest %v", kind, median, asked[len(asked)-1], usual, most)
		allowed, allowedMedian := by+most, by+usual
		if by == 0 {
			allowed, allowedMedian = eximTimeout*9/10+most, eximTimeout/2+usual
		}
		asked = asked[:len(asked)-len(asked)/50]
		if slowest := asked[len(asked)-1]; slowest > allowed {
			t.Errorf("%s: a message took %v, want at most %v", kind, slowest, allowed)
		}
		if median > allowedMedian {
			t.Errorf("%s: the median is %v, want at most %v", kind, median, allowedMedian)
		}
	}
}

func (l sentAll) times(script, control bool) []time.Duration {
	var out []time.Duration
	for _, m := range l {
		if m.script == script && m.control == control {
			out = append(out, m.took)
		}
	}
	slices.Sort(out)
	return out
}

// asked is how many Exim should have asked about.
func (l sentAll) asked() int {
	n := 0
	for _, m := range l {
		if !m.control {
			n++
		}
	}
	return n
}

// unavailable fails the test unless Exim's log says of every message that was asked
// about, and of no other, that nobody answered.
func (l sentAll) unavailable(t *testing.T) {
	t.Helper()
	if got, want := len(machine.LogLines("OSM unavailable, accepted unchecked")), l.asked(); got != want {
		t.Errorf("Exim's log says %d times that a message was accepted unchecked, want %d", got, want)
	}
}

// answered fails the test if Exim missed an answer.
func answered(t *testing.T) {
	t.Helper()
	if lines := machine.LogLines("OSM unavailable"); len(lines) > 0 {
		t.Errorf("Exim got no answer %d times, for example: %s", len(lines), lines[0])
	}
	if lines := machine.LogLines("statement skipped"); len(lines) > 0 {
		t.Errorf("the ACL broke %d times, for example: %s", len(lines), lines[0])
	}
}

// decidedAsUsual is what holds for faults that must not show: the spammer's limit is
// exact, everybody else's mail passes, everything was answered in time.
func (l sentAll) decidedAsUsual(t *testing.T, d *lab.Daemon) {
	t.Helper()
	l.accepted(t)
	l.later(t, 0)
	answered(t)
	l.frozenBut(t, d, limit)
}

// frozenBut fails the test unless all of the spammer's messages but so many are frozen,
// and none of the others'. Where the daemon says that it answered from memory alone,
// because this machine had no time for it, as many may be on the wrong side.
func (l sentAll) frozenBut(t *testing.T, d *lab.Daemon, pass int) {
	t.Helper()
	s, err := d.Status()
	if err != nil {
		t.Fatal(err)
	}
	if s.Shed > 0 {
		t.Logf("%d questions were answered from memory alone", s.Shed)
	}
	script, shop := l.notLost(t)
	if want := l.asked()/2 - pass; max(script-want, want-script) > int(s.Shed) || shop != 0 {
		t.Errorf("%d messages of the spammer and %d of the shop are frozen, want %d and 0", script, shop, want)
	}
}

// explained waits until decisions of the storm can be looked up, the first and the last
// among them: what was decided in memory has been stored.
func (l sentAll) explained(t *testing.T, d *lab.Daemon) {
	t.Helper()
	queue, err := machine.ReadQueue()
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]string{}
	for _, q := range queue {
		ids[q.Subject] = q.ID
	}
	for i, m := range l {
		if m.control || i%100 > 1 && i < len(l)-2 {
			continue
		}
		eventually(t, 15*time.Second, "the decision about "+m.subject, func() error {
			var x struct {
				Decision *struct {
					Account string `json:"account"`
					Subject string `json:"subject"`
				} `json:"decision"`
			}
			if err := d.JSON(&x, "explain", ids[m.subject]); err != nil {
				return err
			}
			if x.Decision == nil || !strings.Contains(x.Decision.Subject, t.Name()) {
				return fmt.Errorf("got %+v", x.Decision)
			}
			return nil
		})
	}
}

// used is how much of a trigger an account has used up.
func used(d *lab.Daemon, account, trigger string) (int64, error) {
	var l struct {
		Items []struct {
			Trigger string `json:"trigger"`
			Key     string `json:"key"`
			Used    int64  `json:"used"`
		} `json:"items"`
	}
	if err := d.JSON(&l, "usage", account); err != nil {
		return 0, err
	}
	for _, u := range l.Items {
		if u.Trigger == trigger {
			return u.Used, nil
		}
	}
	return 0, nil
}

// usedIs fails the test unless an account has used up so much of its hour. What was
// answered from memory alone, because this machine had no time, may be counted twice.
func usedIs(t *testing.T, d *lab.Daemon, account string, want int64) {
	t.Helper()
	s, err := d.Status()
	if err != nil {
		t.Fatal(err)
	}
	n, err := used(d, account, "account-hour")
	if err != nil || max(n-want, want-n) > int64(s.Shed) {
		t.Errorf("%s has used %d (%v), want %d", account, n, err, want)
	}
}
