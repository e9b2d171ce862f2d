package evidence

import (
	"fmt"
	"testing"

	"osm/internal/evidence"
)

var apacheOnly = evidence.Options{Apache: []string{"http://" + site}}

// Two hundred pages of fifty mails each, by each way in which PHP is run, visitors at once
// and all of them for the same address where the handler can tell them apart.
func TestScriptURLAndVisitorAreNamed(t *testing.T) {
	const visitors, each = 5, 10
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
			stop := gatherNear(t, gatherer(t, o), near)
			visits(t, visitors, each, way.uri)
			got := judge(t, stop(visitors*each), page)
			t.Logf("%+v", got)
			if got.asked != visitors*each {
				t.Errorf("%d messages were looked at, want %d", got.asked, visitors*each)
			}
			if got.whole*100 < got.asked*90 {
				t.Errorf("all is known of %d messages of %d, want 90 %% of each way", got.whole, got.asked)
			}
			total.asked += got.asked
			total.whole += got.whole
		})
	}
	t.Logf("script, URL and visitor were named for %d of %d pages", total.whole, total.asked)
	if total.whole*100 < total.asked*95 {
		t.Errorf("all is known of %d messages of %d, want 95 %%", total.whole, total.asked)
	}
}

// php-fpm does not tell its visitors: where several ask for the same address at once, the
// script is named and the visitor only where the times leave one.
func TestVisitorsOfTheSameURLAreNotConfused(t *testing.T) {
	s := fpmPHP(t)
	page := s.page(t, "send.php", s.shebang(sendPage))
	o := apacheOnly
	o.Pools = s.pools
	stop := gatherNear(t, gatherer(t, o), near)
	visits(t, 5, 4, func(int, int) string { return "/send.php" })
	got := judge(t, stop(20), page)
	t.Logf("%+v", got)
	if got.asked != 20 || got.scripts < 18 {
		t.Errorf("the script is known of %d of %d messages, want 20, or nearly", got.scripts, got.asked)
	}
}
