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
	freeLook  = 500              // messages of one account that are looked at in one turn
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
// more recipients than the limit) does not keep those behind it waiting.
func (h *Held) oldestFree(ctx context.Context, now policy.Moment, account string) (*store.Held, int64, error) {
	list, _, err := h.o.Store.HeldList(ctx, store.HeldFilter{
		State: store.StateHeld.String(), Release: policy.WhenFree.String(), Account: account, Limit: freeLook,
	})
	if err != nil {
		return nil, 0, err
	}
	again := now.Boot + freePoll.Milliseconds()
	for i := range list {
		m := &list[i]
		if now.Boot < h.free.stuck[m.Seq] {
			continue
		}
		if young := time.Second - now.Wall.Sub(m.HeldAt.Time); young > 0 { // it may not be in the queue yet
			again = min(again, now.Boot+young.Milliseconds()+1)
			continue
		}
		l := h.admitted(now, m)
		switch {
		case l.Admitted:
			return m, 0, nil
		case l.FreeAt.IsZero():
			h.free.stuck[m.Seq] = now.Boot + freeStuck.Milliseconds()
		default:
			return nil, max(now.Boot+l.FreeAt.Sub(now.Wall).Milliseconds(), now.Boot) + 1, nil
		}
	}
	return nil, again, nil
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
