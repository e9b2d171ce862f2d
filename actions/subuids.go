package actions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// subUIDRules block uids that are subordinate to an account's (subuid(5)): its processes have
// them in user namespaces, where nothing but a container's settings says which. They are a set
// and a chain of their own, as a kernel or nft that knows no ranges that end by themselves
// must still block the account's uid.
const subUIDRules = `table inet osm_direct;
add set inet osm_direct blocked_subuids { type uid; flags interval, timeout; };
add chain inet osm_direct subordinate { type filter hook output priority 0; policy accept; };
flush chain inet osm_direct subordinate;
add rule inet osm_direct subordinate tcp dport { ` + directPorts + ` } meta skuid @blocked_subuids ` + directRefused

// stateSubUIDs is the key of [Record.State] under which the ranges stand that were blocked.
const stateSubUIDs = "subuids"

// maxSubUIDs is how many ranges of one account are blocked: useradd gives one.
const maxSubUIDs = 16

// uidRange is from first to last, both included.
type uidRange struct{ first, last uint32 }

// String is the range in nft's language.
func (r uidRange) String() string {
	if r.first == r.last {
		return uidText(r.first)
	}
	return uidText(r.first) + "-" + uidText(r.last)
}

func (r uidRange) meets(o uidRange) bool { return r.first <= o.last && o.first <= r.last }

// ofSubUIDs is the same table with the rules of its set of ranges.
func (t nftTable) ofSubUIDs() nftTable {
	t.rules = subUIDRules
	return t
}

func subUIDEntry(text string) nftEntry {
	return nftEntry{set: "blocked_subuids", value: text, is: func(listed string) bool { return listed == text }}
}

// applySubUIDs blocks what is subordinate to the account, and returns what there is to add to
// the outcome. What it cannot do leaves the block of the account's own uid as it is.
func (b *blockDirect) applySubUIDs(ctx context.Context, t nftTable, r *Record, a account) string {
	ranges := strings.Fields(r.State[stateSubUIDs])
	var (
		left []string
		err  error
	)
	if len(ranges) == 0 {
		if ranges, left, err = subUIDsOf(a.uid); err == nil && len(ranges) > 0 {
			setState(r, stateSubUIDs, strings.Join(ranges, " "))
			err = b.x.records.put(r) // the undo goes by it
		}
	}
	for i := 0; err == nil && i < len(ranges); i++ {
		err = t.add(ctx, r, subUIDEntry(ranges[i]))
	}
	var text string
	switch {
	case err != nil:
		text = "; NOT blocked are its subordinate uids: " + oneLine(err.Error(), 300)
		if undoErr := undoSubUIDs(ctx, t, r); undoErr == nil {
			delete(r.State, stateSubUIDs)
		}
	case len(ranges) > 0:
		text = "; and its subordinate uids " + strings.Join(ranges, ", ")
	}
	if len(left) > 0 {
		text += "; not blocked, as others may have them or they are too many: " + oneLine(strings.Join(left, ", "), 300)
	}
	return text
}

func undoSubUIDs(ctx context.Context, t nftTable, r *Record) error {
	for _, text := range strings.Fields(r.State[stateSubUIDs]) {
		if _, err := t.remove(ctx, r, subUIDEntry(text)); err != nil {
			return err
		}
	}
	return nil
}

// subUIDsStand reports whether one of the record's ranges is blocked.
func subUIDsStand(ctx context.Context, t nftTable, r *Record) (bool, error) {
	for _, text := range strings.Fields(r.State[stateSubUIDs]) {
		if stands, err := t.stands(ctx, r, subUIDEntry(text)); stands || err != nil {
			return stands, err
		}
	}
	return false, nil
}

// subUIDsOf returns the ranges of /etc/subuid that belong to a uid and to nobody else, in
// nft's language, and what of its ranges was left out.
func subUIDsOf(uid uint32) (ranges, left []string, err error) {
	budget := int64(maxListBytes)
	var taken []uidRange // by the users of passwd
	uids := map[string]uint32{}
	err = eachLine("/etc/passwd", &budget, func(line string) bool {
		if f := strings.Split(line, ":"); len(f) > 2 {
			if n, err := strconv.ParseUint(f[2], 10, 32); err == nil {
				uids[f[0]] = uint32(n)
				taken = append(taken, uidRange{uint32(n), uint32(n)})
			}
		}
		return true
	})
	var own []uidRange
	err = errors.Join(err, eachLine("/etc/subuid", &budget, func(line string) bool {
		if of, r, ok := parseSubUID(line, uids); ok && of == int64(uid) {
			own = append(own, r)
		} else if ok {
			taken = append(taken, r)
		}
		return true
	}))
	if err != nil {
		return nil, nil, fmt.Errorf("look for uids subordinate to uid %d: %w", uid, err)
	}
	for _, r := range merged(own) {
		if len(ranges) == maxSubUIDs || slices.ContainsFunc(taken, r.meets) {
			left = append(left, r.String())
			continue
		}
		ranges = append(ranges, r.String())
	}
	return ranges, left, nil
}

// parseSubUID reads a line of subuid(5): whose it is, -1 for nobody that passwd has, and its
// uids. In place of the name there may be a uid.
func parseSubUID(line string, uids map[string]uint32) (of int64, r uidRange, ok bool) {
	f := strings.Split(line, ":")
	if len(f) != 3 || line[0] == '#' {
		return 0, r, false
	}
	first, err := strconv.ParseUint(f[1], 10, 32)
	count, countErr := strconv.ParseUint(f[2], 10, 32)
	if err != nil || countErr != nil || count == 0 {
		return 0, r, false
	}
	r = uidRange{uint32(first), uint32(min(first+count-1, 1<<32-1))}
	of = -1
	if n, known := uids[f[0]]; known {
		of = int64(n)
	} else if n, err := strconv.ParseUint(f[0], 10, 32); err == nil {
		of = int64(n)
	}
	return of, r, true
}

// merged joins ranges that meet: nft takes none that overlap.
func merged(in []uidRange) []uidRange {
	slices.SortFunc(in, func(a, b uidRange) int { return cmp.Compare(a.first, b.first) })
	var out []uidRange
	for _, r := range in {
		if n := len(out); n > 0 && out[n-1].meets(r) {
			out[n-1].last = max(out[n-1].last, r.last)
		} else {
			out = append(out, r)
		}
	}
	return out
}
