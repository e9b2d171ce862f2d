package store

import "osm/policy"

// The column flags of a decision, from the lowest bit:
//
//	0-3   source
//	4-6   class of the client address
//	8-12  reason
//	13    counted
//	14    the directory's account rests on a claim
//	15    client_ip is the address to count, not only where the client was
//	16-17 release
//	18    the directory is the account's own, and directory_account empty
const (
	flagReason    = 8
	flagCounted   = 1 << 13
	flagClaimed   = 1 << 14
	flagCountedIP = 1 << 15
	flagRelease   = 16
	flagOwnDir    = 1 << 18
)

// sourceDirect is policy.SourceDirect as the schema has it: SQLite uses the index of
// connections only where the number stands in the query.
const sourceDirect = "7"

// flagsOf packs the small parts of a decision.
func flagsOf(d *policy.Decision) int64 {
	f := int64(d.Identity.Source)&15 | int64(d.Identity.IPClass)&7<<4 | int64(d.Reason)&31<<flagReason | int64(d.Release)&3<<flagRelease
	if d.Counted {
		f |= flagCounted
	}
	if d.Identity.Claimed {
		f |= flagClaimed
	}
	if d.Identity.ClientIP.IsValid() {
		f |= flagCountedIP
	}
	if d.Identity.DirectoryAccount == d.Identity.Account {
		f |= flagOwnDir
	}
	return f
}

func sourceOf(f int64) policy.Source   { return policy.Source(f & 15) }
func ipClassOf(f int64) policy.IPClass { return policy.IPClass(f >> 4 & 7) }
func reasonOf(f int64) policy.Reason   { return policy.Reason(f >> flagReason & 31) }
func releaseOf(f int64) policy.Release { return policy.Release(f >> flagRelease & 3) }
