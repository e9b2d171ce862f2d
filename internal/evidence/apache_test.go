package evidence

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"osm/internal/origin"
	"osm/policy"
)

const secret = "s3cr3tKeyOfThePanel"

// statusServer answers at one address only.
func statusServer(t *testing.T, address, body string) (url string, asked *atomic.Int64) {
	t.Helper()
	asked = new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.RequestURI() != address {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(s.Close)
	return s.URL, asked
}

func keyFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func newTestApache(t *testing.T, o Options) *apache {
	t.Helper()
	if o.Now == nil {
		o.Now = origin.Clock()
	}
	a, err := newApache(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// askPatiently asks again where this machine was too busy for the time a question has.
func askPatiently(a *apache) (s sample, err error) {
	for range 20 {
		if s, err = a.ask(context.Background()); !errors.Is(err, context.DeadlineExceeded) {
			break
		}
	}
	return s, err
}

func TestEveryFormOfTheStatusPagesAddress(t *testing.T) {
	for _, address := range []string{"/" + secret, "/whm-server-status?key=" + secret, "/whm-server-status", "/server-status"} {
		url, asked := statusServer(t, address, page(t, "prefork.html"))
		a := newTestApache(t, Options{Apache: []string{url}, ApacheKeyFile: keyFile(t, secret+"\n")})
		s, err := askPatiently(a)
		if err != nil || len(s.rows) != 5 || s.before > s.after {
			t.Errorf("%s: %d rows, %v; want 5: all but the question itself", address, len(s.rows), err)
		}
		if good := a.good; !strings.HasSuffix(strings.Replace(good, keyFormat, secret, 1), address) {
			t.Errorf("%s: %s is remembered", address, good)
		}
		first := asked.Load()
		if _, err := a.ask(context.Background()); err == nil && asked.Load() != first+1 {
			t.Errorf("%s: asked the second time by %d questions; want one", address, asked.Load()-first)
		}
	}
}

func TestTheKeyStandsInNoError(t *testing.T) {
	notThere, _ := statusServer(t, "/nowhere", "")
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for _, url := range []string{notThere, gone.URL} {
		a := newTestApache(t, Options{Apache: []string{url}, ApacheKeyFile: keyFile(t, secret)})
		for _, path := range DefaultApachePaths() {
			_, err := a.get(context.Background(), url+path)
			if err == nil || strings.Contains(err.Error(), secret) {
				t.Errorf("%s%s: the error is %v", url, path, err)
			}
		}
	}
	for _, text := range []string{"", "two words", "../etc", "a?b", "x#y", "100%", strings.Repeat("k", maxKey+1)} {
		a := newTestApache(t, Options{ApacheKeyFile: keyFile(t, text)})
		if _, err := a.key(); err == nil || text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("key %.20q: the error is %v", text, err)
		}
	}
}

// The row of a question with the key in its address must not become evidence.
func TestRequestsForTheStatusPageAreNoEvidence(t *testing.T) {
	body := page(t, "prefork.html")
	for _, path := range []string{"/" + secret, "/whm-server-status?key=" + secret, "/whm-server-status?auto", "/server-status?refresh=1"} {
		body = strings.Replace(body, "</table>", `<tr><td>9-0</td><td>9999</td><td>0/0/0</td><td>W</td><td>0</td><td>0</td><td>0</td><td>0</td><td>0</td><td>0</td><td>0</td>`+
			`<td>127.0.0.1</td><td>http/1.1</td><td>x:80</td><td>GET `+path+` HTTP/1.1</td></tr></table>`, 1)
	}
	url, _ := statusServer(t, "/server-status", body)
	s, err := askPatiently(newTestApache(t, Options{Apache: []string{url}, ApacheKeyFile: keyFile(t, secret)}))
	if err != nil || len(s.rows) != 5 {
		t.Fatalf("%d rows, %v; want 5", len(s.rows), err)
	}
	body = strings.ReplaceAll(page(t, "prefork.html"), "/slow.php", "/slow.php/server-status")
	url, _ = statusServer(t, "/server-status", body)
	if s, err = askPatiently(newTestApache(t, Options{Apache: []string{url}})); err != nil || len(s.rows) != 5 {
		t.Errorf("%d rows, %v; want 5: a script whose address ends like the page's is not hidden", len(s.rows), err)
	}
}

func TestOnlyThisHostIsAsked(t *testing.T) {
	for _, server := range []string{"http://192.0.2.1:80", "http://localhost:80", "https://127.0.0.1", "http://127.0.0.1:80/x", "http://u@127.0.0.1", "127.0.0.1:80", "http://[2001:db8::1]:80"} {
		if _, err := New(Options{Apache: []string{server}, Now: origin.Clock()}); err == nil {
			t.Errorf("%q is taken", server)
		}
	}
	for _, server := range []string{"http://127.0.0.1:80", "http://[::1]:8080", "http://127.0.0.1"} {
		if _, err := New(Options{Apache: []string{server}, Now: origin.Clock()}); err != nil {
			t.Error(err)
		}
	}
	var outside atomic.Int64
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { outside.Add(1) }))
	defer target.Close()
	redirects := httptest.NewServer(http.RedirectHandler(target.URL, http.StatusFound))
	defer redirects.Close()
	if _, err := newTestApache(t, Options{Apache: []string{redirects.URL}}).ask(context.Background()); err == nil || outside.Load() != 0 {
		t.Errorf("a redirection is followed %d times, %v", outside.Load(), err)
	}
}

func TestAnOldPageOfACacheIsNotTaken(t *testing.T) {
	body := page(t, "prefork.html")
	for age, taken := range map[string]bool{"": true, "0": true, "7": false} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Age", age)
			_, _ = w.Write([]byte(body))
		}))
		t.Cleanup(s.Close)
		if _, err := askPatiently(newTestApache(t, Options{Apache: []string{s.URL}})); (err == nil) != taken {
			t.Errorf("Age: %s: %v", age, err)
		}
	}
}

func TestWhatIsWrongWithTheStatusPageIsSaid(t *testing.T) {
	url, asked := statusServer(t, "/server-status", page(t, "not-extended.html"))
	now := policy.Moment{Boot: 1_000_000}
	a := newTestApache(t, Options{Apache: []string{url}, Now: func() policy.Moment { return now }})
	if _, err := askPatiently(a); !errors.Is(err, errNotExt) {
		t.Errorf("ExtendedStatus is off, and the error is %v", err)
	}
	first := asked.Load()
	if _, err := a.ask(context.Background()); !errors.Is(err, errNotExt) || asked.Load() != first {
		t.Errorf("asked again at once: %v", err)
	}
	now.Boot += askAgain.Milliseconds() + 1
	if _, err := askPatiently(a); !errors.Is(err, errNotExt) || asked.Load() == first {
		t.Errorf("never asked again: %v", err)
	}
	if _, err := newTestApache(t, Options{}).ask(context.Background()); err == nil {
		t.Error("nothing is configured, and there is an answer")
	}
}

func TestAnApacheThatDoesNotAnswerCostsLittleTime(t *testing.T) {
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(func() { close(release); s.Close() })
	before := time.Now()
	_, err := newTestApache(t, Options{Apache: []string{s.URL}}).ask(context.Background())
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the error is %v, want one of time", err)
	}
	if took := time.Since(before); took < askTime || took > askTime+2*time.Second {
		t.Errorf("it took %v, want %v", took, askTime)
	}
}

// Who waits while somebody asks gets the next answer together with all others who do.
func TestManyWhoAskAtOnceAreOneQuestion(t *testing.T) {
	var asked atomic.Int64
	release := make(chan struct{})
	body := page(t, "prefork.html")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 1 {
			<-release
		}
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(s.Close)
	var looks atomic.Int64 // at the clock, which goes on by each
	a := newTestApache(t, Options{Apache: []string{s.URL}, ApachePaths: []string{"/server-status"}, Now: func() policy.Moment {
		return policy.Moment{Boot: 1000 + looks.Add(1)}
	}})
	errs := make(chan error, 21)
	ask := func() {
		got, err := a.ask(context.Background())
		if err == nil && len(got.rows) == 0 {
			err = errNoStatus
		}
		errs <- err
	}
	go ask()
	await(t, func() bool { return asked.Load() == 1 })
	before := looks.Load()
	for range 20 {
		go ask()
	}
	await(t, func() bool { return looks.Load() >= before+20 }) // all of them wait
	close(release)
	for range 21 {
		// The first may have had to wait too long for the others to come.
		if err := <-errs; err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	}
	if n := asked.Load(); n > 2 {
		t.Errorf("21 callers made %d questions, want one or two", n)
	}
}

func await(t *testing.T, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("waited ten seconds")
}
