package policy

import (
	"cmp"
	"math"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"
)

// Account is one user of this host as the hosting panel, or passwd, knows it.
type Account struct {
	Name       string
	Home       string // absolute; "" if there is none
	Reseller   string // who owns the account in the panel; "" or "root" without a reseller
	Package    string // the panel's package (plan)
	UID        uint32
	MainDomain string
	Contact    string // e-mail address of the account's owner, "" if none is known
	// System marks a user that is nobody's hosting account: root, daemons, and whatever
	// the panel does not list. Mail of such a user is charged to [AccountSystem].
	System bool
}

// SubUIDs are subordinate uids of one user, a line of subuid(5): its processes may take
// them in user namespaces, and for everybody else they have them.
type SubUIDs struct {
	User         string
	First, Count uint32
}

// subUIDs are [SubUIDs] of a user that is there.
type subUIDs struct {
	first, last uint32
	reach       uint32   // the highest last of this range and all before it
	account     *Account // nil = a system or shared user's, such as what root gives to containers
}

// AccountMapInput is what the loader of a panel has read, before it is indexed.
type AccountMapInput struct {
	// Accounts holds every user of passwd: the panel's accounts, and all others with
	// System set, so that their mail can be told apart from that of unknown uids. Where
	// two share a uid an account comes before a system user, then the first of the list,
	// as getpwuid does. A uid of 0 is always a system user.
	Accounts []Account
	// Domains gives for each domain the name of its account.
	Domains map[string]string
	// SubUIDs are the uids that users may use beside their own.
	SubUIDs []SubUIDs
	// SharedUsers are the users under which the web server runs scripts of many accounts.
	SharedUsers []string
	// RecentAuth gives for addresses that logged in lately the panel's entry,
	// "sender|domain", or "" where the panel keeps none.
	RecentAuth map[netip.Addr]string
	// AlwaysRelay are the networks that the administrator lets relay.
	AlwaysRelay []netip.Prefix
	EximUID     uint32 // of Exim's run-time user; 0 = not known
	LoadedAt    time.Time
	Panel       string // "cpanel", "directadmin" or "passwd"
}

// AccountMap answers whose a name, uid, domain, directory or address is.
//
// It never changes once it is built, so that any number of goroutines may ask it
// while the loader prepares the next one. No lookup allocates.
type AccountMap struct {
	accounts []Account // by name
	names    map[string]*Account
	uids     map[uint32]*Account
	subUIDs  []subUIDs           // by first
	domains  map[string]*Account // lower case; hosting accounts only
	homes    map[string]*Account // hosting accounts only; nil = two accounts share it

	sharedNames map[string]bool
	sharedUIDs  map[uint32]string

	recentAuth map[netip.Addr]string
	relay      map[netip.Prefix]bool
	relayBits4 []int // prefix lengths that occur, IPv4
	relayBits6 []int

	eximUID  uint32
	loadedAt time.Time
	panel    string
}

// NewAccountMap indexes what a loader has read. Entries that could never be an
// account (no name, or a name that would pass for one of ours, such as
// [AccountUnknown]) are left out.
func NewAccountMap(in AccountMapInput) *AccountMap {
	m := &AccountMap{
		sharedNames: make(map[string]bool, len(in.SharedUsers)),
		sharedUIDs:  make(map[uint32]string, len(in.SharedUsers)),
		eximUID:     in.EximUID, loadedAt: in.LoadedAt, panel: in.Panel,
	}
	for _, name := range in.SharedUsers {
		if validName(name) && name != "root" {
			m.sharedNames[name] = true
		}
	}
	m.indexAccounts(in.Accounts)
	m.indexSubUIDs(in.SubUIDs)
	m.indexDomains(in.Domains)
	m.indexRelays(in.RecentAuth, in.AlwaysRelay)
	return m
}

func (m *AccountMap) indexAccounts(in []Account) {
	m.accounts = make([]Account, 0, len(in))
	m.names = make(map[string]*Account, len(in))
	m.uids = make(map[uint32]*Account, len(in))
	m.homes = make(map[string]*Account, len(in))
	for _, a := range in {
		if !validName(a.Name) || m.names[a.Name] != nil {
			continue
		}
		a.System = a.System || a.UID == 0 || (m.eximUID != 0 && a.UID == m.eximUID)
		m.accounts = append(m.accounts, a) // never grows: pointers into it stay good
		p := &m.accounts[len(m.accounts)-1]
		m.names[a.Name] = p
		if old := m.uids[a.UID]; old == nil || (old.System && !a.System) {
			m.uids[a.UID] = p
		}
		if m.sharedNames[a.Name] && a.UID != 0 {
			m.sharedUIDs[a.UID] = a.Name
		}
	}
	for i := range m.accounts {
		m.indexHome(&m.accounts[i])
	}
}

// indexHome notes whose directory a home is. One that two accounts with different
// uids share says nothing about either, so it becomes nobody's.
func (m *AccountMap) indexHome(a *Account) {
	if a.System || m.sharedNames[a.Name] || !strings.HasPrefix(a.Home, "/") {
		return
	}
	home := path.Clean(a.Home)
	if home == "/" {
		return
	}
	old, seen := m.homes[home]
	switch {
	case !seen:
		m.homes[home] = a
	case old != nil && old.UID != a.UID:
		m.homes[home] = nil
	}
}

func (m *AccountMap) indexSubUIDs(in []SubUIDs) {
	for _, r := range in {
		a := m.names[r.User]
		if a == nil || r.Count == 0 || r.First == 0 {
			continue
		}
		if a = m.uids[a.UID]; a.System || m.sharedNames[a.Name] { // two names of one uid are one user
			a = nil
		}
		last := uint32(min(uint64(r.First)+uint64(r.Count)-1, math.MaxUint32))
		m.subUIDs = append(m.subUIDs, subUIDs{first: r.First, last: last, account: a})
	}
	slices.SortFunc(m.subUIDs, func(a, b subUIDs) int { return cmp.Compare(a.first, b.first) })
	reach := uint32(0)
	for i := range m.subUIDs {
		reach = max(reach, m.subUIDs[i].last)
		m.subUIDs[i].reach = reach
	}
}

func (m *AccountMap) indexDomains(in map[string]string) {
	m.domains = make(map[string]*Account, len(in))
	for domain, user := range in {
		a := m.names[user]
		domain = strings.TrimSuffix(strings.ToLower(domain), ".")
		// cPanel ends its map with "*: nobody", which is no domain.
		if domain == "" || domain == "*" || a == nil || a.System || m.sharedNames[user] {
			continue
		}
		m.domains[domain] = a
	}
}

func (m *AccountMap) indexRelays(recent map[netip.Addr]string, always []netip.Prefix) {
	m.recentAuth = make(map[netip.Addr]string, len(recent))
	for ip, entry := range recent {
		m.recentAuth[plainAddr(ip)] = entry
	}
	m.relay = make(map[netip.Prefix]bool, len(always))
	for _, p := range always {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		if !p.IsValid() {
			continue
		}
		m.relay[p.Masked()] = true
		bits := &m.relayBits6
		if p.Addr().Is4() {
			bits = &m.relayBits4
		}
		if !slices.Contains(*bits, p.Bits()) {
			*bits = append(*bits, p.Bits())
		}
	}
}

// validName reports whether a user name can stand for an account: not empty, short,
// printable, and not in parentheses, which are ours.
func validName(s string) bool {
	if s == "" || len(s) > 64 || s[0] == '(' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// plainAddr drops what makes two spellings of one address differ: the IPv4-in-IPv6
// form and the zone.
func plainAddr(ip netip.Addr) netip.Addr { return ip.Unmap().WithZone("") }

// ByName returns the user of that name, system users too: look at System.
func (m *AccountMap) ByName(name string) (Account, bool) { return deref(m.names[name]) }

// ByUID returns the user with that uid, system users too: look at System.
func (m *AccountMap) ByUID(uid uint32) (Account, bool) { return deref(m.uids[uid]) }

// BySubUID returns the hosting account to which a uid that is no user's own is subordinate:
// none where two users could have it.
func (m *AccountMap) BySubUID(uid uint32) (Account, bool) {
	if m.uids[uid] != nil {
		return Account{}, false
	}
	i, _ := slices.BinarySearchFunc(m.subUIDs, uid, func(r subUIDs, uid uint32) int {
		if r.first <= uid {
			return -1
		}
		return 1
	})
	var a *Account
	for i--; i >= 0 && m.subUIDs[i].reach >= uid; i-- {
		switch r := &m.subUIDs[i]; {
		case r.last < uid:
		case r.account == nil, a != nil && a != r.account:
			return Account{}, false
		default:
			a = r.account
		}
	}
	return deref(a)
}

// ByDomain returns the hosting account that owns exactly this domain (lower case).
// The owner of a parent domain is not taken: subdomains have entries of their own.
func (m *AccountMap) ByDomain(domain string) (Account, bool) { return deref(m.domains[domain]) }

// ByPath returns the hosting account in whose home the clean absolute path lies; the
// longest home wins, and the home itself belongs to it. System users own nothing.
func (m *AccountMap) ByPath(clean string) (Account, bool) { return deref(m.byPath(clean)) }

func (m *AccountMap) byPath(clean string) *Account {
	for len(clean) > 1 && clean[0] == '/' {
		if a, seen := m.homes[clean]; seen {
			return a
		}
		clean = clean[:strings.LastIndexByte(clean, '/')]
	}
	return nil
}

func deref(a *Account) (Account, bool) {
	if a == nil {
		return Account{}, false
	}
	return *a, true
}

// Place fills in where the account of id stands in the panel now, as [Identify] does: it
// is not kept with what is stored, and limits are inherited from there.
func (m *AccountMap) Place(id Identity) Identity {
	if a := m.names[id.Account]; a != nil {
		id.Reseller, id.Package = a.Reseller, a.Package
	}
	return id
}

// SharedUser reports whether the web server runs scripts of many accounts as this user.
func (m *AccountMap) SharedUser(name string) bool { return m.sharedNames[name] }

// SharedUID returns the name of the shared web user with that uid.
func (m *AccountMap) SharedUID(uid uint32) (name string, ok bool) {
	name, ok = m.sharedUIDs[uid]
	return name, ok
}

// RecentAuth returns the panel's entry for an address that logged in lately.
func (m *AccountMap) RecentAuth(ip netip.Addr) (entry string, ok bool) {
	entry, ok = m.recentAuth[plainAddr(ip)]
	return entry, ok
}

// AlwaysRelay reports whether the administrator lets the address relay.
func (m *AccountMap) AlwaysRelay(ip netip.Addr) bool {
	ip = plainAddr(ip)
	bits := m.relayBits6
	if ip.Is4() {
		bits = m.relayBits4
	}
	for _, b := range bits {
		if p, err := ip.Prefix(b); err == nil && m.relay[p] {
			return true
		}
	}
	return false
}

// EximUID returns the uid of Exim's run-time user; ok is false when it is not known.
func (m *AccountMap) EximUID() (uid uint32, ok bool) { return m.eximUID, m.eximUID != 0 }

// Panel names where the accounts come from: "cpanel", "directadmin" or "passwd".
func (m *AccountMap) Panel() string { return m.panel }

// LoadedAt returns when the files behind the map were read.
func (m *AccountMap) LoadedAt() time.Time { return m.loadedAt }

// Accounts returns the hosting accounts, without system and shared web users, in the
// order in which they were given. The slice is the caller's.
func (m *AccountMap) Accounts() []Account {
	out := make([]Account, 0, len(m.accounts))
	for _, a := range m.accounts {
		if !a.System && !m.sharedNames[a.Name] {
			out = append(out, a)
		}
	}
	return out
}

// EachDomain calls f for every domain with the name of the hosting account that owns it, in
// no order.
func (m *AccountMap) EachDomain(f func(domain, account string)) {
	for domain, a := range m.domains {
		f(domain, a.Name)
	}
}

// Domains returns how many domains the map knows.
func (m *AccountMap) Domains() int { return len(m.domains) }
