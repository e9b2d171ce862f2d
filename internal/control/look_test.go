package control_test

import (
	"fmt"
	"testing"
	"time"

	"osm/internal/control"
	"osm/internal/control/controltest"
)

func TestTopGoesOnForResellersToo(t *testing.T) {
	d := controltest.New(t, enforced)
	for _, account := range []string{"blog", "shop", "news"} {
		d.Send(controltest.Mail{Account: account})
	}
	for i := range 5 { // others, before and behind his
		d.Send(controltest.Mail{Account: fmt.Sprintf("other%d", i), Recipients: 1 + i%2})
	}
	d.Flush()
	for what, c := range map[string]struct {
		actor control.Actor
		want  int
	}{"an operator": {operator(), 8}, "a reseller": {bob(), 2}} {
		seen, p := map[string]bool{}, control.Page{Limit: 1}
		for range 10 {
			l, err := d.Service.Top(t.Context(), c.actor, time.Time{}, "", p)
			if err != nil {
				t.Fatal(err)
			}
			for _, one := range l.Items {
				seen[one.Account] = true
			}
			if p.After = l.Next; p.After == "" {
				break
			}
		}
		if len(seen) != c.want || p.After != "" {
			t.Errorf("%s saw %v, and then %q; want %d accounts", what, seen, p.After, c.want)
		}
	}
	_, err := d.Service.Top(t.Context(), operator(), time.Time{}, "", control.Page{Limit: 1, After: "x"})
	wantStatus(t, "a wrong mark", err, 400)
}
