package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"osm/actions"
	"osm/policy"
	store "osm/sql"
)

// Held lists held mail, the oldest first.
func (s *Service) Held(ctx context.Context, a Actor, q Selection, p Page) (List[HeldMessage], error) {
	if q.Account != "" {
		if err := s.mayAccount(a, q.Account); err != nil {
			return List[HeldMessage]{}, err
		}
	}
	if err := pageMark(p); err != nil {
		return List[HeldMessage]{}, err
	}
	if _, known := store.ParseState(q.State); q.State != "" && q.State != "all" && !known {
		return List[HeldMessage]{}, badRequest("state is %.40q: it is held, releasing, discarding, released, discarded, gone, expired or all", q.State)
	}
	f := q.filter()
	f.Accounts, f.State, f.Limit, f.After = s.ownAccounts(a), q.State, p.Limit, p.After
	list, next, err := s.o.Store.HeldList(ctx, f)
	out := make([]HeldMessage, 0, len(list))
	for _, h := range list {
		out = append(out, HeldMessage{Held: h})
	}
	return List[HeldMessage]{Items: out, Next: next}, found(err, "", "no held mail")
}

func (q *Selection) filter() store.HeldFilter {
	return store.HeldFilter{Account: q.Account, Mailbox: strings.ToLower(q.Mailbox), Directory: q.Directory, Subject: q.Subject, Trigger: q.Trigger}
}

// HeldMessage finds one held message, with its headers while it is in the queue.
func (s *Service) HeldMessage(ctx context.Context, a Actor, ref string) (HeldMessage, error) {
	h, err := s.heldByName(ctx, a, ref)
	if err != nil {
		return HeldMessage{}, err
	}
	out := HeldMessage{Held: h}
	state, _ := store.ParseState(h.State)
	if s.o.Executor == nil || state > store.StateDiscarding {
		return out, nil
	}
	if out.Headers, err = s.o.Executor.QueueHeaders(ctx, h.MessageID); err != nil {
		s.o.Log.Warn("could not read the headers of a held message", "message_id", h.MessageID, "err", err)
		out.LastError = strings.TrimSpace(out.LastError + " headers: " + err.Error())
	}
	return out, nil
}

// heldByName finds a held message by its reference or Exim's message id. One that the actor
// may not see is not found.
func (s *Service) heldByName(ctx context.Context, a Actor, name string) (h store.Held, err error) {
	what := "reference"
	name = strings.TrimPrefix(strings.TrimSpace(name), "ref=")
	if actions.ValidMessageID(name) {
		what = "id"
		h, err = s.o.Store.HeldByMessageID(ctx, name)
	} else {
		h, err = s.o.Store.HeldByRef(ctx, strings.ToLower(name))
	}
	if err == nil && !s.visible(a, h.Account) {
		err = store.ErrNotFound
	}
	return h, found(err, "osmctl held list --state all lists them", "no held message has the %s %.40q", what, name)
}

// heldOf is what the register says of a frozen message; nil if it does not know it.
func (s *Service) heldOf(ctx context.Context, d *Decision) (*HeldMessage, error) {
	if d.Verdict != policy.Freeze.String() {
		return nil, nil
	}
	h, err := s.o.Store.HeldByRef(ctx, d.Ref)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return &HeldMessage{Held: h}, found(err, "", "no held message")
}

// ReleaseHeld lets waiting messages go to their recipients. Each is released at most
// once, whoever asks how often; the register lets them out of the queue at its pace.
func (s *Service) ReleaseHeld(ctx context.Context, a Actor, q Settle) (Settled, error) {
	if err := operatorOnly(a, "release held mail"); err != nil {
		return Settled{}, err
	}
	return s.settle(ctx, a, q, store.StateReleasing)
}

// DiscardHeld removes waiting messages for good. Headers and event are kept.
func (s *Service) DiscardHeld(ctx context.Context, a Actor, q Settle) (Settled, error) {
	return s.settle(ctx, a, q, store.StateDiscarding)
}

// maxSettled is how many messages one request may settle.
const maxSettled = 20_000

// settle marks messages; the register of held mail does the rest, and can go on after
// a restart. Compare-and-set sees to it that of two operators only one does it.
func (s *Service) settle(ctx context.Context, a Actor, q Settle, to store.State) (Settled, error) {
	list, err := s.selected(ctx, a, &q.Selection)
	if err != nil {
		return Settled{}, err
	}
	done := Settled{Matched: len(list)}
	if q.DryRun {
		done.Text = fmt.Sprintf("%s would be %s", count(int64(len(list)), "message"), willBe(to))
		return done, nil
	}
	if q.Expect != nil && *q.Expect != len(list) {
		return Settled{}, failure(http.StatusConflict, "look at them again: osmctl held list", "%d waiting messages match now, not %d: nothing was changed", len(list), *q.Expect)
	}
	for _, h := range list {
		var moved bool
		if err = ctx.Err(); err == nil {
			moved, err = s.o.Store.SetHeldState(whole(ctx), h.Ref, store.StateHeld, to, a.Name, "")
		}
		if err != nil {
			break
		}
		if moved {
			done.Changed++
		}
	}
	became := fmt.Sprintf("%d %s", done.Changed, willBe(to))
	if err != nil {
		became += ", then an error"
	}
	if done.Changed > 0 || err != nil {
		s.audited(ctx, a, verbOf(to), q.target(), fmt.Sprintf("%d held", len(list)), became, q.Reason)
		s.o.Kick()
	}
	if err != nil {
		return done, found(err, "", "the message has gone meanwhile")
	}
	done.Text = s.settledText(done, to)
	return done, nil
}

func willBe(to store.State) string {
	if to == store.StateReleasing {
		return "released"
	}
	return "discarded"
}

func verbOf(to store.State) string {
	if to == store.StateReleasing {
		return "held release"
	}
	return "held discard"
}

func (s *Service) settledText(done Settled, to store.State) string {
	cfg := s.o.Config()
	text := fmt.Sprintf("%s released: they leave the queue at %s, oldest first", count(int64(done.Changed), "message"), cfg.Held.ReleaseRate)
	switch {
	case to == store.StateDiscarding:
		text = fmt.Sprintf("%s discarded: they are removed from the queue now", count(int64(done.Changed), "message"))
	case done.Changed == 1:
		text = "1 message released: it leaves the queue in its turn"
	}
	if left := done.Matched - done.Changed; left > 0 {
		text += fmt.Sprintf("; %d were settled by somebody else meanwhile", left)
	}
	return text
}

// target tells what a selection names, for the audit.
func (q *Selection) target() string {
	var parts []string
	for _, p := range [][2]string{{"account", q.Account}, {"mailbox", q.Mailbox}, {"directory", q.Directory}, {"subject", q.Subject}, {"trigger", q.Trigger}} {
		if p[1] != "" {
			parts = append(parts, p[0]+" "+p[1])
		}
	}
	if n := len(q.Refs); n > 0 {
		parts = append(parts, strings.Join(q.Refs[:min(n, 20)], " "))
	}
	return strings.Join(parts, ", ")
}

// selected are the waiting messages that a selection names and the actor may see.
func (s *Service) selected(ctx context.Context, a Actor, q *Selection) ([]store.Held, error) {
	if len(q.Refs) > maxLimit {
		return nil, badRequest("at most %d references at once", maxLimit)
	}
	if q.State != "" && q.State != store.StateHeld.String() {
		return nil, badRequest("only mail in the state held can be released or discarded")
	}
	if len(q.Refs) > 0 {
		return s.selectedByRef(ctx, a, q)
	}
	if q.Account == "" && q.Mailbox == "" && q.Directory == "" && q.Subject == "" && q.Trigger == "" {
		return nil, badRequest("name references, or at least one of account, mailbox, working_directory, subject and trigger")
	}
	if q.Account != "" {
		if err := s.mayAccount(a, q.Account); err != nil {
			return nil, err
		}
	}
	var out []store.Held
	f := q.filter()
	f.Accounts, f.State, f.Limit = s.ownAccounts(a), store.StateHeld.String(), maxLimit
	for {
		list, next, err := s.o.Store.HeldList(ctx, f)
		if err != nil {
			return nil, found(err, "", "no held mail")
		}
		out = append(out, list...)
		if len(out) > maxSettled {
			return nil, invalid("name an account, a Subject or a trigger too", "more than %s messages match: too many for one request", decimal(maxSettled))
		}
		if next == "" {
			return out, nil
		}
		f.After = next
	}
}

// selectedByRef are the messages that are named one by one, as far as they match the
// rest of the selection and wait.
func (s *Service) selectedByRef(ctx context.Context, a Actor, q *Selection) ([]store.Held, error) {
	var out []store.Held
	seen := map[uint64]bool{}
	for _, ref := range q.Refs {
		h, err := s.heldByName(ctx, a, ref)
		if err != nil {
			return nil, err
		}
		key, _ := policy.FoldSubject(q.Subject)
		matches := (q.Account == "" || q.Account == h.Account) && (q.Mailbox == "" || strings.EqualFold(q.Mailbox, h.Mailbox)) &&
			(q.Directory == "" || q.Directory == h.WorkingDirectory) && (q.Trigger == "" || q.Trigger == h.Trigger) && (q.Subject == "" || key == h.SubjectKey)
		if matches && h.State == store.StateHeld.String() && !seen[h.Seq] {
			seen[h.Seq] = true
			out = append(out, h)
		}
	}
	return out, nil
}
