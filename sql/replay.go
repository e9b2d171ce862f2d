package store

import (
	"context"
	"math"
	"net/netip"
	"time"

	"osm/policy"
)

// Counted is a stored decision, or a held message that left by itself, as far as counters
// need it. It is what policy.Engine.ReplayStored takes.
type Counted struct {
	Seq        uint64
	At         policy.Moment // on this boot's clock
	Identity   policy.Identity
	SubjectKey string
	Recipients int
}

const countedColumns = `seq, at, boot, drift, account, flags, recipients, client_ip, mailbox, directory, directory_account, sub_key, subject_key`

// ReplaySince hands everything that was counted and has a higher number than seq, not
// older than since, to fn, in the order of the numbers: decisions, and held messages that
// left by themselves. Those of another boot are moved to this boot's clock by wall clock,
// with now as the present. What still waits to be written is not among them. fn must not
// keep the row.
func (s *Store) ReplaySince(ctx context.Context, seq uint64, since time.Time, now policy.Moment, fn func(*Counted) error) error {
	return s.readLong(ctx, "replay decisions", func(ctx context.Context, c *cursor) error {
		behind, err := c.behind(ctx, now.Wall)
		if err != nil {
			return err
		}
		now.Wall, since = now.Wall.Add(behind), since.Add(behind)
		l := leaving{s: s, c: c, now: now, since: since, after: int64(seq), fn: fn}
		if err := c.decisionsSince(ctx, s.o.BootID, seq, since, now, func(row *Counted) error {
			if err := l.upTo(ctx, row.Seq); err != nil {
				return err
			}
			return fn(row)
		}); err != nil {
			return err
		}
		return l.upTo(ctx, math.MaxInt64)
	})
}

// behind is how far the wall clock is behind the newest decision: it has been wrong since
// the machine was booted, or was set back. What was sent in the last hours before then is
// taken to have been sent in the last hours: it neither holds anybody for longer than his
// period, nor is it forgotten.
func (c *cursor) behind(ctx context.Context, wall time.Time) (d time.Duration, err error) {
	err = c.each(ctx, "SELECT at FROM decisions ORDER BY seq DESC LIMIT 1", nil, func(v []value) error {
		d = max(moment(integer(v[0])).Sub(wall), 0)
		return nil
	})
	return d, err
}

// decisionsSince hands the counted decisions to fn.
func (c *cursor) decisionsSince(ctx context.Context, bootID string, seq uint64, since time.Time, now policy.Moment, fn func(*Counted) error) error {
	low, high, err := c.seqsOf(ctx, since, time.UnixMilli(farFuture))
	if err != nil {
		return err
	}
	low = max(low, int64(seq)+1)
	boots, err := c.boots(ctx, bootID, now)
	if err != nil {
		return err
	}
	row := new(Counted)
	for ; low <= high; low += scanRows {
		err := c.each(ctx, "SELECT "+countedColumns+" FROM decisions WHERE seq BETWEEN ? AND ? AND at >= ? AND flags & ? <> 0 ORDER BY seq",
			[]value{low, min(high, low+scanRows-1), ms(since), int64(flagCounted)}, func(v []value) error {
				if err := c.counted(ctx, v, boots, row); err != nil {
					return err
				}
				row.At.Boot = min(row.At.Boot, now.Boot)
				return fn(row)
			})
		if err != nil {
			return err
		}
	}
	return nil
}

// leaving are the held messages that left by themselves, between the decisions.
type leaving struct {
	s     *Store
	c     *cursor
	now   policy.Moment
	since time.Time
	fn    func(*Counted) error

	after int64     // all up to this number are read
	page  []Counted // read and not yet handed on
	ended bool
}

const leavingPage = 1000

// upTo hands on those with a number below seq.
func (l *leaving) upTo(ctx context.Context, seq uint64) error {
	for {
		if len(l.page) == 0 {
			if l.ended {
				return nil
			}
			if err := l.read(ctx); err != nil {
				return err
			}
			continue
		}
		if l.page[0].Seq >= seq {
			return nil
		}
		if err := l.fn(&l.page[0]); err != nil {
			return err
		}
		l.page = l.page[1:]
	}
}

// read reads the next page.
func (l *leaving) read(ctx context.Context) error {
	err := l.c.each(ctx, "SELECT "+heldColumns+", left_seq, left_at, left_boot_id, left_boot FROM held WHERE left_seq > ? AND left_at >= ? ORDER BY left_seq LIMIT ?",
		[]value{l.after, ms(l.since), int64(leavingPage)}, func(v []value) error {
			m, left := l.s.heldOf(v), v[len(v)-4:]
			at := policy.Moment{Wall: moment(integer(left[1])), Boot: integer(left[3])}
			if str(left[2]) != l.s.o.BootID {
				at.Boot = integer(left[1]) + l.now.Boot - ms(l.now.Wall)
			}
			at.Boot = min(at.Boot, l.now.Boot)
			l.after = integer(left[0])
			l.page = append(l.page, Counted{Seq: uint64(l.after), At: at, Identity: m.Identity, SubjectKey: m.SubjectKey, Recipients: int(m.Recipients)})
			return nil
		})
	l.ended = len(l.page) < leavingPage
	return err
}

// bootShift is what is added to the wall time of a boot's decisions, with their drift, to
// make this boot's clock of it.
type bootShift struct {
	add   int64
	drift int64 // 1: the drift counts: it is this boot
}

// boots reads the boots.
func (c *cursor) boots(ctx context.Context, present string, now policy.Moment) (map[int64]bootShift, error) {
	shifts := make(map[int64]bootShift)
	err := c.each(ctx, "SELECT id, boot_id, zero FROM boots", nil, func(v []value) error {
		shift := bootShift{add: now.Boot - ms(now.Wall)}
		if str(v[1]) == present {
			shift = bootShift{add: -integer(v[2]), drift: 1}
		}
		shifts[integer(v[0])] = shift
		return nil
	})
	return shifts, err
}

// counted reads a row of countedColumns.
func (c *cursor) counted(ctx context.Context, v []value, boots map[int64]bootShift, row *Counted) (err error) {
	at, shift, flags := integer(v[1]), boots[integer(v[2])], integer(v[5])
	*row = Counted{Seq: uint64(integer(v[0])), Recipients: int(integer(v[6]))}
	row.At = policy.Moment{Wall: moment(at), Boot: at + shift.add - shift.drift*integer(v[3])}
	id := &row.Identity
	if id.Account, err = c.accountName(ctx, integer(v[4])); err != nil {
		return err
	}
	for i, to := range [...]*string{&id.Mailbox, &id.Directory, &id.DirectoryAccount, &id.SubKey, &row.SubjectKey} {
		if *to, err = c.text(ctx, v[8+i]); err != nil {
			return err
		}
	}
	flagged(id, flags, addressOf(v[7]))
	return nil
}

// flagged fills in what an identity's flags say.
func flagged(id *policy.Identity, flags int64, ip netip.Addr) {
	id.Source, id.IPClass, id.Claimed = sourceOf(flags), ipClassOf(flags), flags&flagClaimed != 0
	if flags&flagCountedIP != 0 {
		id.ClientIP = ip
	}
	if flags&flagOwnDir != 0 {
		id.DirectoryAccount = id.Account
	}
}
