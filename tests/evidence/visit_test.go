package evidence

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"osm/internal/evidence"
	"osm/policy"
	"osm/tests/lab"
)

const (
	mails = 50 // of one page
	near  = 40 // the message at which a trigger of 50 is near its limit
	tries = 4  // for what is not known where the machine had no time; what is wrong is wrong each time
)

// sendPage sends mails by mail() and writes into each Subject what is true of the request.
var sendPage = fmt.Sprintf(`<?php
for ($i = 1; $i <= %d; $i++) {
	$truth = "n=$i ip={$_SERVER['REMOTE_ADDR']} uri={$_SERVER['REQUEST_URI']} method={$_SERVER['REQUEST_METHOD']}";
	if (!mail("friend@outside.example", $truth, "Hello.\n", "From: shop@shop.example")) {
		http_response_code(500);
	}
}
echo "sent";
`, mails)

// truth is what the script itself wrote of its request into the Subject.
type truth struct {
	n               int
	ip, uri, method string
}

var truthText = regexp.MustCompile(`n=(\d+) ip=(\S+) uri=(\S+) method=(\S+)`)

func (a asked) truth() (truth, bool) {
	m := truthText.FindStringSubmatch(a.s.Subject)
	if m == nil {
		return truth{}, false
	}
	n, _ := strconv.Atoi(m[1])
	return truth{n, m[2], m[3], m[4]}, true
}

// answer is what was found out about one message.
type answer struct {
	truth
	e policy.Evidence
}

// gatherNear hands the message near the limit of each page to the gatherer until stop is
// called, which waits for as many as are wanted and returns what was found out. They may be
// fewer: Exim asks without us where we do not answer in time.
func gatherNear(t *testing.T, g *evidence.Gatherer, near int) (stop func(want int) []answer) {
	for len(machine.door.asked) > 0 {
		<-machine.door.asked // of an earlier test
	}
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	var out []answer
	var running sync.WaitGroup
	running.Go(func() {
		for {
			var a asked
			select {
			case <-ctx.Done():
				return
			case a = <-machine.door.asked:
			}
			is, ok := a.truth()
			if !ok || is.n != near {
				continue
			}
			running.Go(func() {
				e := g.Gather(context.Background(), a.s, a.chain, a.id, a.at)
				mu.Lock()
				defer mu.Unlock()
				out = append(out, answer{is, e})
			})
		}
	})
	return func(want int) []answer {
		t.Helper()
		err := lab.WaitFor(20*time.Second, fmt.Sprint(want, " messages to be looked at"), func() error {
			mu.Lock()
			defer mu.Unlock()
			if len(out) < want {
				return fmt.Errorf("%d so far", len(out))
			}
			return nil
		})
		if err != nil {
			t.Log(err)
		}
		cancel()
		running.Wait()
		return out
	}
}

// visitor is somebody with an address of his own.
type visitor struct {
	ip     string
	client *http.Client
}

func newVisitor(n int) *visitor {
	v := &visitor{ip: fmt.Sprintf("127.0.0.%d", 10+n)}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(v.ip)}}
	v.client = &http.Client{Timeout: 5 * time.Minute, Transport: &http.Transport{DialContext: d.DialContext}}
	return v
}

// get opens a page.
func (v *visitor) get(uri string) error {
	res, err := v.client.Get("http://" + site + uri)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK || string(body) != "sent" {
		return fmt.Errorf("GET %s: status %d: %.500q", uri, res.StatusCode, body)
	}
	return nil
}

// visits has several visitors at once open a page, each some times.
func visits(t *testing.T, visitors, each int, uri func(visitor, n int) string) {
	t.Helper()
	errs := make(chan error, visitors*each)
	var running sync.WaitGroup
	for i := range visitors {
		v := newVisitor(i)
		running.Go(func() {
			for n := range each {
				if err := v.get(uri(i, n)); err != nil {
					errs <- err
				}
			}
		})
	}
	running.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}

// found is what was found out about pages.
type found struct {
	score
	answers []answer
}

// visitUntil is visits with the message near the limit of each page looked into, once more
// while that is not enough.
func visitUntil(t *testing.T, g *evidence.Gatherer, page string, visitors, each int, uri func(visitor, n int) string, enough func(found) bool) found {
	t.Helper()
	for try := 1; ; try++ {
		stop := gatherNear(t, g, near)
		visits(t, visitors, each, uri)
		var f found
		f.answers = stop(visitors * each)
		f.score = judge(t, f.answers, page)
		t.Logf("try %d: %+v", try, f.score)
		if f.asked >= visitors*each && enough(f) || try == tries {
			return f
		}
	}
}

// visitOnce is visitUntil for one page, about which enough is to be known.
func visitOnce(t *testing.T, g *evidence.Gatherer, page, want string, enough func(policy.Evidence) bool) {
	t.Helper()
	known := func(f found) bool { return len(f.answers) > 0 && enough(f.answers[0].e) }
	if f := visitUntil(t, g, page, 1, 1, func(int, int) string { return "/send.php" }, known); !known(f) {
		t.Errorf("the evidence is %+v, want %s", f.answers, want)
	}
}

// score counts what was named, and fails the test for everything that is wrong.
type score struct{ asked, whole, scripts, visitors, high int }

func judge(t *testing.T, answers []answer, script string) (s score) {
	t.Helper()
	for _, a := range answers {
		e := a.e
		wrong := e.Script != "" && e.Script != script || e.URL != "" && e.URL != a.uri ||
			e.Method != "" && e.Method != a.method || e.ClientIP.IsValid() && e.ClientIP.String() != a.ip
		if wrong {
			t.Errorf("a message of %+v was said to be of %+v", a.truth, e)
		}
		s.asked++
		if e.Confidence == policy.ConfidenceHigh {
			s.high++
		}
		if e.Script == script {
			s.scripts++
		}
		if e.ClientIP.IsValid() {
			s.visitors++
		}
		if e.Script == script && e.URL == a.uri && e.ClientIP.String() == a.ip {
			s.whole++
			continue
		}
		if s.asked-s.whole <= 3 { // the first ones say why
			t.Logf("not all is known of %+v: %+v", a.truth, e)
		}
	}
	return s
}
