package actions

import (
	"context"
	"time"

	"osm/policy"
	store "osm/sql"
)

// freeTimes remembers when to look again at held mail that leaves by itself, in
// milliseconds of the boot clock. All of it can be forgotten at any time: it only saves
// questions.
type freeTimes struct {
	pollAt   int64            // the store is asked again which accounts have any
	accounts []string         // that had some when it was asked last
	account  map[string]int64 // nothing of the account fits before
	stuck    map[uint64]int64 // a hold stands on it, or it is larger than its limit
}

func newFreeTimes() freeTimes {
	return freeTimes{account: map[string]int64{}, stuck: map[uint64]int64{}}
}

func (f *freeTimes) forget() { *f = newFreeTimes() }

const (
	freePoll  = 15 * time.Second // new held mail is noticed after so long at the latest
	freeStuck = time.Minute      // what cannot be foretold is tried again
	freeLook  = 500              // messages of one account that are read at once
	asideFor  = time.Hour        // after which something is tried again that Exim did not let go
)

// freeDue lets the held mail go that its limits have room for: the oldest first within an
// account, one of each account in turn, each counted into the windows as it leaves, so
// that the limit delays and does not lose.
func (h *Held) freeDue(ctx context.Context, now policy.Moment) (int64, error) {
	if len(h.leaving) > 0 { // before any more is counted
		if err := h.deliver(ctx, now, h.leaving); err != nil {
			return 0, err
		}
		h.leaving = nil
	}
	var next soonest
	if now.Boot >= h.free.pollAt {
		if err := h.pollFree(ctx, now); err != nil {
			return 0, err
		}
	}
	next.add(h.free.pollAt)
	var leaving []store.Held
	for _, account := range h.free.accounts {
		if at := h.free.account[account]; now.Boot < at {
			next.add(at)
			continue
		}
		m, at, err := h.oldestFree(ctx, now, account)
		if err != nil {
			return 0, err
		}
		if m == nil {
			h.free.account[account] = at
			next.add(at)
			continue
		}
		moved, err := h.marked(ctx, m)
		if err != nil {
			return 0, err
		}
		if moved { // else an operator was quicker
			m.State, m.By, m.StateAt = store.StateReleasing.String(), byWhenFree, store.Time{Time: now.Wall}
			leaving = append(leaving, *m)
		}
		next.add(now.Boot + 1) // the next message of each, at once
		if len(leaving) == MaxBatch {
			break
		}
	}
	if len(leaving) == 0 {
		return next.at, nil
	}
	h.leaving = leaving
	if err := h.deliver(ctx, now, leaving); err != nil {
		return 0, err
	}
	h.leaving = nil
	return next.at, nil
}

// pollFree asks the store which accounts have mail that leaves by itself. The account
// that was first the last time comes last now: nobody is always behind a full batch.
func (h *Held) pollFree(ctx context.Context, now policy.Moment) error {
	totals, err := h.o.Store.HeldTotals(ctx)
	if err != nil {
		return err
	}
	h.free.accounts = h.free.accounts[:0]
	for i := range totals {
		t := &totals[(i+int(now.Boot/freePoll.Milliseconds())%len(totals))%len(totals)]
		if t.WhenFree > 0 {
			h.free.accounts = append(h.free.accounts, t.Account)
		}
	}
	h.free.pollAt = now.Boot + freePoll.Milliseconds()
	for seq, at := range h.free.stuck {
		if now.Boot >= at {
			delete(h.free.stuck, seq)
		}
	}
	return nil
}

// oldestFree finds the oldest message of an account that may leave now, and counts it; or
// when to look again. One that nobody can foretell (a hold on its mailbox or directory,
// more recipients than the limit) does not keep those behind it waiting, and one that Exim
// does not let go comes behind all others.
func (h *Held) oldestFree(ctx context.Context, now policy.Moment, account string) (*store.Held, int64, error) {
	again, aside := now.Boot+freePoll.Milliseconds(), (*store.Held)(nil)
	f := store.HeldFilter{State: store.StateHeld.String(), Release: policy.WhenFree.String(), Account: account, Limit: freeLook}
	for {
		list, next, err := h.o.Store.HeldList(ctx, f)
		if err != nil {
			return nil, 0, err
		}
		for i := range list {
			m := &list[i]
			if m.Attempts >= maxAttempts {
				if aside == nil || m.StateAt.Before(aside.StateAt.Time) {
					aside = m
				}
				continue
			}
			switch may, at := h.mayLeave(now, m); {
			case may:
				return m, 0, nil
			case at.full:
				return nil, at.boot, nil
			default:
				again = min(again, at.boot)
			}
		}
		if next == "" {
			break
		}
		f.After = next
	}
	if aside == nil {
		return nil, again, nil
	}
	return h.tryAside(now, aside, again)
}

// lookAgain is when to ask again for a message; full if the account's limits have no room
// before, so that those behind it need not be asked for.
type lookAgain struct {
	boot int64
	full bool
}

// mayLeave asks whether a message may leave now, and counts it if so.
func (h *Held) mayLeave(now policy.Moment, m *store.Held) (bool, lookAgain) {
	if at := h.free.stuck[m.Seq]; now.Boot < at {
		return false, lookAgain{boot: at}
	}
	if young(now, m.HeldAt.Time, time.Second) { // it may not be in the queue yet
		return false, lookAgain{boot: now.Boot + time.Second.Milliseconds()}
	}
	l := h.admitted(now, m)
	switch {
	case l.Admitted:
		return true, lookAgain{}
	case l.FreeAt.IsZero():
		h.free.stuck[m.Seq] = now.Boot + freeStuck.Milliseconds()
		return false, lookAgain{boot: h.free.stuck[m.Seq]}
	}
	return false, lookAgain{max(now.Boot+l.FreeAt.Sub(now.Wall).Milliseconds(), now.Boot) + 1, true}
}

// tryAside tries one message again that Exim did not let go: of each account one an hour,
// the one that was tried least lately, until one goes. Each attempt is counted, and some
// hundred that can never leave must not use up what the account may send.
func (h *Held) tryAside(now policy.Moment, m *store.Held, again int64) (*store.Held, int64, error) {
	if at := h.asideAt[m.Account]; now.Boot < at {
		return nil, min(again, at), nil
	}
	may, at := h.mayLeave(now, m)
	if !may {
		return nil, min(again, at.boot), nil
	}
	h.asideAt[m.Account] = now.Boot + asideFor.Milliseconds()
	return m, 0, nil
}

// leave is a held message that was counted as it was to leave.
type leave struct {
	seq uint64 // 0 = nothing of it is counted
	at  policy.Moment
}

// admitted asks the engine whether a message may leave, and remembers that it was counted
// until that is written down: where the store fails it is not counted again and again.
func (h *Held) admitted(now policy.Moment, m *store.Held) policy.Leave {
	if l, ok := h.counted[m.Seq]; ok {
		return policy.Leave{Admitted: true, Seq: l.seq}
	}
	l := h.o.Engine.AdmitHeld(now, h.o.Place(m.Identity), m.SubjectKey, int(m.Recipients))
	if l.Admitted {
		h.counted[m.Seq] = leave{l.Seq, now}
	}
	return l
}

// marked writes down that a message leaves and what it was counted as; moved is false if
// somebody else has settled it.
func (h *Held) marked(ctx context.Context, m *store.Held) (moved bool, err error) {
	l := h.counted[m.Seq]
	if moved, err = h.o.Store.LeaveHeld(ctx, m.Ref, l.seq, l.at, byWhenFree); err == nil {
		delete(h.counted, m.Seq)
	}
	return moved, err
}
