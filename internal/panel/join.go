package panel

import (
	"cmp"
	"maps"
	"slices"
	"strconv"

	"osm/policy"
)

const (
	nobodyUID = 65534
	lowestUID = 100 // below it are the distribution's own users, whatever a list says
)

// accounts joins what the files say into the list that [policy.NewAccountMap] takes.
func (t *tables) accounts(o *Options) []policy.Account {
	main := map[string]string{} // user → main domain
	for domain, user := range t.mainDomains {
		if old, known := main[user]; !known || domain < old {
			main[user] = domain
		}
	}
	listed := map[string]bool{}
	for _, domains := range []map[string]string{t.domains, t.mainDomains, o.Domains} {
		for _, user := range domains {
			listed[user] = true
		}
	}
	accounts := make([]policy.Account, 0, len(t.users))
	for _, u := range t.users {
		accounts = append(accounts, policy.Account{
			Name: u.name, UID: u.uid, Home: u.home,
			Reseller: t.owners[u.name], Package: t.plans[u.name], MainDomain: main[u.name],
			Contact: cmp.Or(o.Contacts[u.name], t.contacts[u.name]),
			System:  !hosting(u, listed[u.name], o.MinUID),
		})
	}
	return accounts
}

// namedSubUIDs returns the subordinate uids under the names of their users, where subuid has
// a uid in place of one.
func (t *tables) namedSubUIDs() []policy.SubUIDs {
	if len(t.subUIDs) == 0 {
		return nil
	}
	names := make(map[string]string, 2*len(t.users)) // no name hides a uid: the name comes later
	for _, u := range slices.Backward(t.users) {
		names[strconv.FormatUint(uint64(u.uid), 10)] = u.name
	}
	for _, u := range t.users {
		names[u.name] = u.name
	}
	named := slices.Clone(t.subUIDs)
	for i := range named {
		named[i].User = cmp.Or(names[named[i].User], named[i].User)
	}
	return named
}

// hosting reports whether a user of passwd is a hosting account: one that the panel
// lists, or one with an ordinary uid. The latter on a panel's host too, so that
// nobody sends uncounted because the panel's list lags behind.
func hosting(u user, listed bool, minUID uint32) bool {
	if u.name == "nobody" || u.uid == nobodyUID || u.uid < lowestUID {
		return false
	}
	return listed || u.uid >= minUID
}

// allDomains returns the panel's domains with those of the configuration over them.
func (t *tables) allDomains(configured map[string]string) map[string]string {
	if len(configured) == 0 {
		return t.domains
	}
	all := make(map[string]string, len(t.domains)+len(configured))
	maps.Copy(all, t.domains)
	maps.Copy(all, configured)
	return all
}

// eximUID returns the uid of Exim's run-time user, 0 when it is not known.
func (t *tables) eximUID(name, panel string) uint32 {
	names := []string{name}
	if name == "" {
		names = eximUsers(panel)
	}
	for _, name := range names {
		for _, u := range t.users {
			if u.name == name {
				return u.uid
			}
		}
	}
	return 0
}

// eximUsers lists the users under which Exim usually runs.
func eximUsers(panel string) []string {
	switch panel {
	case CPanel:
		return []string{"mailnull"}
	case DirectAdmin:
		return []string{"mail"}
	}
	return []string{"Debian-exim", "exim", "mailnull"}
}
