package control_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"osm/internal/control"
	"osm/internal/control/controltest"
)

func TestALimitKeepsItsEndAndReasonUntilTheyAreSet(t *testing.T) {
	d := controltest.New(t, enforced)
	c := control.NewClient(d.Socket)
	defer c.Close()
	tomorrow := controltest.Start().Add(24 * time.Hour)
	raise := maxOf("account", "shop", "account-hour", 5)
	raise.Until, raise.Reason = control.Time{Time: tomorrow}, "newsletter"
	change := func(change func(*control.Limit)) control.Limit {
		t.Helper()
		l := control.Limit{Level: "account", Name: "shop", Trigger: "account-hour"}
		change(&l)
		set, err := c.SetLimit(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	change(func(l *control.Limit) { *l = raise })
	release := "when-free"
	l := change(func(l *control.Limit) { l.Release = &release })
	if !l.Until.Equal(tomorrow) || l.Reason != "newsletter" || l.Max == nil || *l.Max != 5 {
		t.Errorf("after another change the limit is %+v, want its end and reason kept", l)
	}
	later := control.Time{Time: tomorrow.Add(time.Hour)}
	if l = change(func(l *control.Limit) { l.Until, l.Reason = later, "longer" }); !l.Until.Equal(later.Time) || l.Reason != "longer" || *l.Max != 5 {
		t.Errorf("after its end was moved the limit is %+v", l)
	}
	if l = change(func(l *control.Limit) { l.Forever = true }); !l.Until.IsZero() || l.Forever || l.Reason != "longer" || *l.Max != 5 {
		t.Errorf("after its end was taken away the limit is %+v", l)
	}
	_, err := c.SetLimit(t.Context(), control.Limit{Level: "account", Name: "shop", Trigger: "account-hour", Forever: true, Until: later})
	wantStatus(t, "an end and none", err, 400)
	change(func(l *control.Limit) { l.Until = control.Time{Time: tomorrow} })
	d.Advance(25 * time.Hour) // it has ended: nothing of it lives on
	five := int64(5)
	if l = change(func(l *control.Limit) { l.Max = &five }); !l.Until.IsZero() || l.Reason != "" || l.Release != nil {
		t.Errorf("a limit set anew is %+v", l)
	}
}

func TestWhatWasSettledBeforeTheClientWentIsWrittenDown(t *testing.T) {
	d := controltest.New(t, enforced)
	var refs []string
	for range 2000 {
		refs = append(refs, d.Send(controltest.Mail{Account: "shop"}).Ref)
	}
	d.Flush()
	ctx, cancel := context.WithCancel(t.Context())
	first := refs[3] // three passed
	go func() {
		defer cancel()
		for {
			if h, err := d.Store.HeldByRef(t.Context(), first); err != nil || h.State != "held" {
				return
			}
		}
	}()
	done, err := d.Service.ReleaseHeld(ctx, operator(), control.Settle{Selection: control.Selection{Account: "shop"}, Reason: "ticket 4711"})
	if err == nil {
		t.Fatalf("all of it was settled before the client could go: %+v", done)
	}
	audit, err := d.Service.Audit(t.Context(), operator(), time.Time{}, control.Page{Limit: 10})
	want := fmt.Sprintf("%d released, then an error (ticket 4711)", done.Changed)
	if err != nil || done.Changed == 0 || len(audit.Items) != 1 || audit.Items[0].New != want {
		t.Errorf("Audit = %+v, %v, want %q", audit, err, want)
	}
	if d.Kicked() == 0 {
		t.Error("the register was not told of what was released")
	}
}
