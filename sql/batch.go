package store

import (
	"cmp"
	"fmt"
	"net/netip"

	"github.com/mattn/go-sqlite3"

	"osm/policy"
)

// statements are the writer's prepared statements, those of every batch.
type statements struct {
	begin, commit, rollback *statement
	account, accountID      *statement
	name, boot, decision    *statement
	minute, hour            *statement
	held, connection        *statement
	event, eventCount, slot *statement
}

const (
	insertDecision = `INSERT OR IGNORE INTO decisions (seq, at, boot, drift, account, flags, verdict, would, recipients, size,
		message_id, client_ip, mailbox, basis, directory, directory_account, script, sub_key, envelope_sender, subject, subject_key,
		trigger, hold, event, over) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)`
	insertHeld = `INSERT OR IGNORE INTO held (seq, message_id, account, mailbox, envelope_sender, subject, subject_key, directory,
		directory_account, sub_key, client_ip, flags, recipients, recipient_list, size, held_at, trigger, hold, release, state, state_at)
		VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)`
	upsertEvent = `INSERT INTO events (id, at, last_at, trigger, watch, key, account, mailbox, mode, verdict, max, per, count, used,
		stopped, free_at, claimed, open) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)
		ON CONFLICT (id) DO UPDATE SET last_at = excluded.last_at, mode = excluded.mode, verdict = excluded.verdict, max = excluded.max,
		used = excluded.used, stopped = excluded.stopped, free_at = excluded.free_at, claimed = excluded.claimed, open = excluded.open`
	insertMinute = `INSERT INTO minutes (minute, first_seq, last_seq, ` + tallyColumns + `) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)
		ON CONFLICT (minute) DO UPDATE SET first_seq = min(first_seq, excluded.first_seq), last_seq = max(last_seq, excluded.last_seq), ` + addTally
	insertHour = `INSERT INTO hours (hour, account, ` + tallyColumns + `) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)
		ON CONFLICT (hour, account) DO UPDATE SET ` + addTally
	addTally = `messages = messages + excluded.messages, recipients = recipients + excluded.recipients, frozen = frozen + excluded.frozen,
		discarded = discarded + excluded.discarded, deferred = deferred + excluded.deferred, denied = denied + excluded.denied,
		stopped_recipients = stopped_recipients + excluded.stopped_recipients, observed = observed + excluded.observed,
		unchecked = unchecked + excluded.unchecked, connections = connections + excluded.connections`
	countMessage = `UPDATE events SET messages = messages + 1 WHERE id = ? RETURNING messages`
	putMessage   = `INSERT OR REPLACE INTO event_messages (event, slot, seq) VALUES (?,?,?)`
)

// prepare prepares the statements.
func (w *writer) prepare() error {
	return w.raw(func(c *sqlite3.SQLiteConn) error {
		for _, p := range []struct {
			to   **statement
			text string
		}{
			{&w.st.begin, "BEGIN IMMEDIATE"}, {&w.st.commit, "COMMIT"}, {&w.st.rollback, "ROLLBACK"},
			{&w.st.account, "INSERT OR IGNORE INTO accounts (name) VALUES (?)"},
			{&w.st.accountID, "SELECT id FROM accounts WHERE name = ?"},
			{&w.st.name, "INSERT INTO names (id, text) VALUES (?,?)"},
			{&w.st.boot, "INSERT INTO boots (boot_id, zero) VALUES (?,?) ON CONFLICT (boot_id) DO UPDATE SET zero = zero RETURNING id, zero"},
			{&w.st.decision, insertDecision}, {&w.st.connection, insertConnection}, {&w.st.held, insertHeld}, {&w.st.event, upsertEvent},
			{&w.st.minute, insertMinute}, {&w.st.hour, insertHour}, {&w.st.eventCount, countMessage}, {&w.st.slot, putMessage},
		} {
			st, err := prepareOn(c, p.text)
			if err != nil {
				return err
			}
			*p.to = st
		}
		return nil
	})
}

// close frees the statements.
func (st *statements) close() {
	for _, s := range []*statement{st.begin, st.commit, st.rollback, st.account, st.accountID, st.name, st.boot, st.decision,
		st.minute, st.hour, st.held, st.connection, st.event, st.eventCount, st.slot} {
		if s != nil {
			s.stmt.Close()
		}
	}
}

// write stores a batch in one transaction: all of it or nothing.
func (w *writer) write(l *load) error {
	return w.raw(func(*sqlite3.SQLiteConn) error {
		if err := w.st.begin.run(); err != nil {
			return fmt.Errorf("begin: %w", err)
		}
		err := w.fill(l)
		if err == nil {
			if err = w.st.commit.run(); err == nil {
				return nil
			}
			err = fmt.Errorf("commit: %w", err)
		}
		w.undo()
		return err
	})
}

// undo rolls back, and forgets what was only stored in the transaction.
func (w *writer) undo() {
	w.st.rollback.run() // fails where SQLite has rolled back by itself
	w.names.forget()
	clear(w.accounts)
	w.zero = 0
	w.boot = 0
}

// fill writes the rows of a batch.
func (w *writer) fill(l *load) error {
	w.rollup.clear()
	for i := range l.rows {
		r := &l.rows[i]
		if r.summed {
			account, err := w.accountID(r.text[textAccount])
			if err != nil {
				return fmt.Errorf("add up decision: %w", err)
			}
			w.rollup.add(r, account)
			continue
		}
		account, err := w.decision(r)
		if err != nil {
			return fmt.Errorf("store decision: %w", err)
		}
		w.rollup.add(r, account)
		if r.connection != nil {
			if err := w.connect(r); err != nil {
				return fmt.Errorf("store connection: %w", err)
			}
		}
		if r.verdict == policy.Freeze {
			if err := w.hold(r); err != nil {
				return fmt.Errorf("store held message: %w", err)
			}
		}
	}
	if err := w.addUp(); err != nil {
		return fmt.Errorf("store totals: %w", err)
	}
	for id := range l.events {
		e := l.events[id]
		if err := w.upsertEvent(&e); err != nil {
			return fmt.Errorf("store event: %w", err)
		}
	}
	for _, m := range l.messages {
		if err := w.eventMessage(m); err != nil {
			return fmt.Errorf("store message of event: %w", err)
		}
	}
	return nil
}

// accountID gives the number of an account, making it known if it is new.
func (w *writer) accountID(name string) (int64, error) {
	if id, ok := w.accounts[name]; ok {
		return id, nil
	}
	if len(w.accounts) >= accountsRemembered {
		clear(w.accounts)
	}
	w.st.account.set(0, name)
	if err := w.st.account.run(); err != nil {
		return 0, err
	}
	w.st.accountID.set(0, name)
	found, err := w.st.accountID.first(1)
	if err != nil || found == nil {
		return 0, fmt.Errorf("account %.80q: %w", name, cmp.Or(err, errCorrupt))
	}
	w.accounts[name] = integer(found[0])
	return w.accounts[name], nil
}

// bootRow gives the row of this boot, which begins with its first decision.
func (w *writer) bootRow(r *row) (int64, error) {
	if w.zero != 0 {
		return w.boot, nil
	}
	w.st.boot.set(0, w.bootID)
	w.st.boot.set(1, r.at-r.boot)
	found, err := w.st.boot.first(2)
	if err != nil || found == nil {
		return 0, fmt.Errorf("boot: %w", cmp.Or(err, errCorrupt))
	}
	w.boot, w.zero = integer(found[0]), integer(found[1])
	return w.boot, nil
}

// decision stores one decision and returns its account's number.
func (w *writer) decision(r *row) (int64, error) {
	account, err := w.accountID(r.text[textAccount])
	if err != nil {
		return 0, err
	}
	boot, err := w.bootRow(r)
	if err != nil {
		return 0, err
	}
	st := w.st.decision
	for i, v := range [...]int64{int64(r.seq), r.at, boot, r.at - w.zero - r.boot, account, r.flags, int64(r.verdict), int64(r.would), r.recipients, r.size} {
		st.set(i, v)
	}
	st.set(10, textOrNull(r.text[textMessageID]))
	st.set(11, address(r.ip))
	for i, t := range [...]int{textMailbox, textBasis, textDirectory, textDirectoryAccount, textScript, textSubKey, textSender, textSubject, textSubjectKey, textTrigger} {
		st.set(12+i, w.names.value(r.text[t]))
	}
	st.set(22, numberOrNull(r.hold))
	st.set(23, numberOrNull(r.event))
	st.set(24, textOrNull(r.text[textOver]))
	if err := w.storeNames(); err != nil {
		return 0, err
	}
	return account, st.run()
}

// storeNames stores the numbers given to texts.
func (w *writer) storeNames() error {
	for _, n := range w.names.fresh {
		w.st.name.set(0, n.id)
		w.st.name.set(1, n.text)
		if err := w.st.name.run(); err != nil {
			return err
		}
	}
	w.names.fresh = w.names.fresh[:0]
	return nil
}

// hold enters a frozen message into the register.
func (w *writer) hold(r *row) error {
	for i, v := range heldValues(r) {
		w.st.held.set(i, v)
	}
	return w.st.held.run()
}

// addUp stores what the batch adds to minutes and hours.
func (w *writer) addUp() error {
	for at, m := range w.rollup.minutes {
		w.st.minute.set(0, at)
		w.st.minute.set(1, int64(m.first))
		w.st.minute.set(2, int64(m.last))
		for i, c := range m.columns() {
			w.st.minute.set(3+i, *c)
		}
		if err := w.st.minute.run(); err != nil {
			return err
		}
	}
	for key, t := range w.rollup.hours {
		w.st.hour.set(0, key.hour)
		w.st.hour.set(1, key.account)
		for i, c := range t.columns() {
			w.st.hour.set(2+i, *c)
		}
		if err := w.st.hour.run(); err != nil {
			return err
		}
	}
	return nil
}

// upsertEvent stores the newest state of an event.
func (w *writer) upsertEvent(e *policy.Event) error {
	for i, v := range eventColumns(e) {
		w.st.event.set(i, v)
	}
	return w.st.event.run()
}

// eventColumns are the values of upsertEvent.
func eventColumns(e *policy.Event) [18]value {
	return [18]value{
		e.ID, ms(e.At), ms(e.LastAt), clean(e.Trigger, textMax[textTrigger]), int64(e.Watch), clean(e.Key, keyMax),
		clean(e.Account, textMax[textAccount]), clean(e.Mailbox, textMax[textMailbox]), int64(e.Mode), int64(e.Verdict), e.Max,
		e.Per.Milliseconds(), int64(e.Count), e.Used, e.Stopped, orNull(e.FreeAt), truth(e.Claimed), truth(e.Open),
	}
}

// keyMax is how many bytes of a trigger's key are kept: an account and a directory.
const keyMax = 700

// Of an event's messages the first and the last are kept, so many of each.
const eventEnds = 50

// eventMessage notes one message of an event: the first 50 for good, then the last 50 in
// a ring.
func (w *writer) eventMessage(m eventMessage) error {
	w.st.eventCount.set(0, m.event)
	n, err := w.st.eventCount.first(1)
	if err != nil || n == nil {
		return err
	}
	w.st.slot.set(0, m.event)
	w.st.slot.set(1, slotOf(integer(n[0])-1))
	w.st.slot.set(2, int64(m.seq))
	return w.st.slot.run()
}

// slotOf is where the n-th message of an event is kept, counted from 0.
func slotOf(n int64) int64 {
	if n < eventEnds {
		return n
	}
	return eventEnds + n%eventEnds
}

func address(ip netip.Addr) value {
	if !ip.IsValid() {
		return nil
	}
	return ip.Unmap().AsSlice()
}

func addressOf(v value) netip.Addr {
	b, _ := v.([]byte)
	ip, _ := netip.AddrFromSlice(b)
	return ip
}

func textOrNull(s string) value {
	if s == "" {
		return nil
	}
	return s
}

func numberOrNull(n int64) value {
	if n == 0 {
		return nil
	}
	return n
}

func truth(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// writeEach stores the rows of a batch one by one, after the batch was refused because
// of one of them. It returns those that cannot be stored.
func (w *writer) writeEach(l *load) (refused []row, err error) {
	for i := range l.rows {
		one := load{rows: l.rows[i : i+1]}
		switch err := w.write(&one); {
		case isOfRow(err):
			refused = append(refused, l.rows[i])
		case err != nil:
			return nil, err // the rows before are stored: storing them again is ignored
		}
	}
	rest := load{events: l.events, messages: l.messages}
	if err := w.write(&rest); err != nil && !isOfRow(err) {
		return nil, err
	}
	return refused, nil
}
