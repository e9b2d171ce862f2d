package control

import (
	"slices"
	"strings"

	"osm/policy"
)

// directory is the panel's accounts made ready to be listed and searched. It is made anew
// when the panel's maps were read again.
type directory struct {
	from     *policy.AccountMap
	accounts []policy.Account    // by name
	domains  map[string][]string // by account, sorted
	own      map[string][]string // names of accounts by reseller, sorted
}

// directory returns that of the maps in force.
func (s *Service) directory() *directory {
	m := s.o.Accounts()
	if d := s.dir.Load(); d != nil && d.from == m {
		return d
	}
	d := &directory{from: m, accounts: m.Accounts(), domains: map[string][]string{}, own: map[string][]string{}}
	slices.SortFunc(d.accounts, func(a, b policy.Account) int { return strings.Compare(a.Name, b.Name) })
	for i := range d.accounts {
		a := &d.accounts[i]
		d.own[a.Reseller] = append(d.own[a.Reseller], a.Name)
	}
	m.EachDomain(func(domain, account string) { d.domains[account] = append(d.domains[account], domain) })
	for account, list := range d.domains {
		slices.Sort(list)
		if a, ok := m.ByName(account); ok { // the main domain first
			if i := slices.Index(list, a.MainDomain); i > 0 {
				copy(list[1:i+1], list[:i])
				list[0] = a.MainDomain
			}
		}
	}
	s.dir.Store(d)
	return d
}

// ownAccounts are the names of the accounts that an actor may see; nil = all there are.
func (s *Service) ownAccounts(a Actor) []string {
	if a.Role == Operator {
		return nil
	}
	own := []string{}
	if a.Role == Reseller && a.Reseller != "" {
		own = append(own, s.directory().own[a.Reseller]...)
	}
	return own
}

// matches finds out whether an account matches a search in small letters, and by what of
// it. A mailbox matches the account that has its domain.
func (d *directory) matches(a *policy.Account, q string) (by string, ok bool) {
	if q == "" {
		return "", true
	}
	if _, domain, isMailbox := strings.Cut(q, "@"); isMailbox {
		if slices.Contains(d.domains[a.Name], domain) {
			return domain, true
		}
		return "", false
	}
	if strings.Contains(strings.ToLower(a.Name), q) {
		return a.Name, true
	}
	for _, domain := range d.domains[a.Name] {
		if strings.Contains(domain, q) {
			return domain, true
		}
	}
	return "", false
}
