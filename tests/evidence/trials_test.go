package evidence

import (
	"fmt"
	"os"
	"testing"

	"osm/internal/evidence"
)

var apacheOnly = evidence.Options{Apache: []string{"http://" + site}}

// Pages of fifty mails each, by each way in which PHP is run, visitors at once and all of
// them for the same address where the handler can tell them apart. With OSM_TRIALS=200 it is
// two hundred pages, of which 95 in a hundred must be known; how many are depends on how
// busy the machine is, so that the usual few are only not to be named wrongly.
func TestScriptURLAndVisitorAreNamed(t *testing.T) {
	const visitors = 5
	each, needed := 2, 50
	if os.Getenv("OSM_TRIALS") == "200" {
		each, needed = 10, 95
	}
	sameURL := func(int, int) string { return "/a%20b/send.php?list=all" }
	ownURL := func(v, n int) string { return fmt.Sprintf("/a%%20b/send.php?list=%d-%d", v, n) }
	total := score{}
	for _, way := range []struct {
		name  string
		serve func(*testing.T) *server
		uri   func(visitor, n int) string
	}{
		{"mod_php in prefork", modPHP, sameURL},
		{"php-cgi by suEXEC in prefork", suexecPHP, sameURL},
		{"the page as a program, by suEXEC, below threads", threadedCGI, sameURL},
		{"php-fpm below threads, each visitor with an address of his own", fpmPHP, ownURL},
	} {
		t.Run(way.name, func(t *testing.T) {
			s := way.serve(t)
			page := s.page(t, "a b/send.php", s.shebang(sendPage))
			o := apacheOnly
			o.Pools = s.pools
			got := visitUntil(t, gatherer(t, o), page, visitors, each, way.uri, func(f found) bool { return f.whole*100 >= f.asked*needed })
			if got.asked < visitors*each {
				t.Errorf("%d messages were looked at, want %d", got.asked, visitors*each)
			}
			if got.whole*100 < got.asked*(needed-5) {
				t.Errorf("all is known of %d messages of %d, want %d %% of each way", got.whole, got.asked, needed-5)
			}
			total.asked += got.asked
			total.whole += got.whole
		})
	}
	t.Logf("script, URL and visitor were named for %d of %d pages", total.whole, total.asked)
	if total.whole*100 < total.asked*needed {
		t.Errorf("all is known of %d messages of %d, want %d %%", total.whole, total.asked, needed)
	}
}

// php-fpm does not tell its visitors: where several ask for the same address at once, the
// script is named and the visitor only where the times leave one.
func TestVisitorsOfTheSameURLAreNotConfused(t *testing.T) {
	s := fpmPHP(t)
	page := s.page(t, "send.php", s.shebang(sendPage))
	o := apacheOnly
	o.Pools = s.pools
	got := visitUntil(t, gatherer(t, o), page, 5, 2, func(int, int) string { return "/send.php" }, func(f found) bool { return f.scripts >= 5 })
	if got.asked < 10 || got.scripts < 5 {
		t.Errorf("the script is known of %d of %d messages, want nearly all", got.scripts, got.asked)
	}
}
