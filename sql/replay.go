package store

import (
	"context"
	"net/netip"
	"time"

	"osm/policy"
)

// Counted is a stored decision as far as counters need it. It is what
// policy.Engine.ReplayStored takes.
type Counted struct {
	Seq        uint64
	At         policy.Moment // on this boot's clock
	Identity   policy.Identity
	SubjectKey string
	Recipients int
}

const countedColumns = `seq, at, boot, drift, account, flags, recipients, client_ip, mailbox, directory, directory_account, sub_key, subject_key`

// ReplaySince hands every decision that was counted and has a higher number than seq, not
// older than since, to fn, in the order of their numbers. Those of another boot are moved
// to this boot's clock by wall clock, with now as the present. What still waits to be
// written is not among them. fn must not keep the row.
func (s *Store) ReplaySince(ctx context.Context, seq uint64, since time.Time, now policy.Moment, fn func(*Counted) error) error {
	return s.readLong(ctx, "replay decisions", func(ctx context.Context, c *cursor) error {
		low, high, err := c.seqsOf(ctx, since, time.UnixMilli(farFuture))
		if err != nil {
			return err
		}
		low = max(low, int64(seq)+1)
		boots, err := c.boots(ctx, s.o.BootID, now)
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
					return fn(row)
				})
			if err != nil {
				return err
			}
		}
		return nil
	})
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
