package policy

import (
	"fmt"
	"testing"
	"time"

	"osm/counters"
)

// BenchmarkCheck is one message through all shipped triggers, all enforcing, for 10,000
// accounts in turn.
func BenchmarkCheck(b *testing.B) {
	shipped := func() *Rules {
		r := &Rules{Triggers: DefaultTriggers(), Settings: DefaultSettings()}
		for i := range r.Triggers {
			r.Triggers[i].Mode = Enforce
			r.Triggers[i].Max = 1 << 30
		}
		return r
	}
	overridden := shipped()
	for i := range 10_000 {
		overridden.Overrides = append(overridden.Overrides, Override{Level: LevelAccount, Name: accountName(i), Trigger: "account-hour", Max: ptr(int64(1 << 31))})
	}
	stopped := shipped()
	for i := range stopped.Triggers {
		stopped.Triggers[i].Max = 0
	}
	for _, bm := range []struct {
		name  string
		rules *Rules
		login bool
	}{
		{"script", shipped(), false},
		{"login", shipped(), true},
		{"script with an override for each account", overridden, false},
		{"script that is over", stopped, false},
	} {
		b.Run(bm.name, func(b *testing.B) {
			e := NewEngine(counters.New(counters.Options{}), bm.rules)
			subs, ids := make([]*Submission, 10_000), make([]Identity, 10_000)
			for i := range subs {
				if bm.login {
					subs[i], ids[i] = fromLogin(accountName(i), "info@"+accountName(i)+".example", fmt.Sprintf("192.0.%d.%d", i/256, i%256), 2)
				} else {
					subs[i], ids[i] = fromScript(accountName(i), "/home/"+accountName(i)+"/public_html", "Your order 8841 has been shipped", 2)
				}
			}
			now := noon()
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				e.Check(now, subs[i%len(subs)], ids[i%len(ids)])
				now.Boot += int64(i & 1)
			}
		})
	}
}

func accountName(i int) string { return fmt.Sprintf("account%d", i) }

// TestCheckStaysSmall keeps memory work off the way of a message: the decision, its
// reference, the folded Subject and what folding it needs.
func TestCheckStaysSmall(t *testing.T) {
	r := &Rules{Triggers: DefaultTriggers()}
	for i := range r.Triggers {
		r.Triggers[i].Mode, r.Triggers[i].Max = Enforce, 1<<30
	}
	e := newTestEngine(t, r)
	s, id := fromScript("shop", "/home/shop/www", "hello", 1)
	now := noon()
	e.Check(now, s, id)
	allocs := testing.AllocsPerRun(200, func() {
		now = now.Add(time.Second)
		e.Check(now, s, id)
	})
	fold := testing.AllocsPerRun(200, func() { FoldSubject(s.Subject) })
	if allocs > 2+fold {
		t.Errorf("a check allocates %v times, want the decision, its reference and the %v of folding", allocs, fold)
	}
}
