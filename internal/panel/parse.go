package panel

import (
	"fmt"
	"net/netip"
	"path"
	"strconv"
	"strings"

	"osm/policy"
)

const (
	maxName   = 64
	maxDomain = 255
	maxPlan   = 128
	maxEntry  = 512
)

// parseDomains reads lines "domain: user", as cPanel's userdomains and DirectAdmin's
// domainowners have them. The first of a domain counts. Wild cards ("*: nobody") are
// passed over: they name nobody's domain.
func parseDomains(b []byte) (map[string]string, error) {
	domains := map[string]string{}
	err := scan(b, func(line string) error {
		domain, user, err := pair(line)
		if err != nil {
			return err
		}
		domain = strings.TrimSuffix(strings.ToLower(domain), ".")
		if domain == "*" {
			return nil
		}
		if !validDomain(domain) {
			return fmt.Errorf("%.80q is no domain", domain)
		}
		if !validName(user) {
			return fmt.Errorf("%.80q is no user name", user)
		}
		if _, known := domains[domain]; !known {
			domains[domain] = user
		}
		return nil
	})
	return domains, err
}

// parseOwners reads lines "user: reseller", as cPanel's trueuserowners has them.
func parseOwners(b []byte) (map[string]string, error) {
	return parseUsers(b, func(owner string) bool { return validName(owner) })
}

// parsePlans reads lines "user: package"; a package's name may hold spaces.
func parsePlans(b []byte) (map[string]string, error) {
	return parseUsers(b, func(plan string) bool { return plan != "" && len(plan) <= maxPlan && printable(plan, true) })
}

// parseContacts reads lines "user: address", as the inspector writes them.
func parseContacts(b []byte) (map[string]string, error) {
	return parseUsers(b, policy.ValidContact)
}

func parseUsers(b []byte, valid func(string) bool) (map[string]string, error) {
	users := map[string]string{}
	err := scan(b, func(line string) error {
		user, value, err := pair(line)
		if err != nil {
			return err
		}
		if !validName(user) {
			return fmt.Errorf("%.80q is no user name", user)
		}
		if !valid(value) {
			return fmt.Errorf("%.80q cannot belong to user %s", value, user)
		}
		if _, known := users[user]; !known {
			users[user] = value
		}
		return nil
	})
	return users, err
}

func pair(line string) (key, value string, err error) {
	key, value, ok := strings.Cut(line, ":")
	if !ok {
		return "", "", fmt.Errorf("%.80q has no colon", line)
	}
	return strings.TrimSpace(key), strings.TrimSpace(value), nil
}

// user is one line of passwd.
type user struct {
	name string
	uid  uint32
	home string
}

// parsePasswd reads passwd. Lines of the old network services ("+…", "-…") are passed
// over.
func parsePasswd(b []byte) ([]user, error) {
	var users []user
	err := scan(b, func(line string) error {
		if line[0] == '+' || line[0] == '-' {
			return nil
		}
		fields := strings.Split(line, ":")
		if len(fields) != 7 {
			return fmt.Errorf("%d fields, want 7", len(fields))
		}
		uid, err := strconv.ParseUint(fields[2], 10, 32)
		if err != nil {
			return fmt.Errorf("%.40q is no uid", fields[2])
		}
		if !validName(fields[0]) {
			return fmt.Errorf("%.80q is no user name", fields[0])
		}
		u := user{name: fields[0], uid: uint32(uid)}
		if strings.HasPrefix(fields[5], "/") && printable(fields[5], true) {
			u.home = path.Clean(fields[5])
		}
		users = append(users, u)
		return nil
	})
	return users, err
}

// parseSubUIDs reads lines "user:first uid:how many", as subuid(5) has them. In place of a
// name there may be a uid.
func parseSubUIDs(b []byte) ([]policy.SubUIDs, error) {
	var ranges []policy.SubUIDs
	err := scan(b, func(line string) error {
		fields := strings.Split(line, ":")
		if len(fields) != 3 {
			return fmt.Errorf("%d fields, want 3", len(fields))
		}
		if !validName(fields[0]) {
			return fmt.Errorf("%.80q is no user name", fields[0])
		}
		var n [2]uint32
		for i, f := range fields[1:] {
			v, err := strconv.ParseUint(f, 10, 32)
			if err != nil {
				return fmt.Errorf("%.40q is no uid or number of uids", f)
			}
			n[i] = uint32(v)
		}
		ranges = append(ranges, policy.SubUIDs{User: fields[0], First: n[0], Count: n[1]})
		return nil
	})
	return ranges, err
}

// parseRecent reads the addresses that logged in lately: an address a line, behind
// which the panel may have written "sender|domain".
func parseRecent(b []byte) (map[netip.Addr]string, error) {
	recent := map[netip.Addr]string{}
	err := scan(b, func(line string) error {
		first, entry := splitAddress(line)
		ip, err := netip.ParseAddr(first)
		if err != nil {
			return fmt.Errorf("%.80q is no address", first)
		}
		if len(entry) > maxEntry || !printable(entry, true) {
			entry = ""
		}
		recent[ip.Unmap().WithZone("")] = entry
		return nil
	})
	return recent, err
}

// parseRelay reads the hosts that may always relay: an address or a network a line.
// Exim's host lists also know names and patterns; these are passed over, because they
// would need the DNS.
func parseRelay(b []byte) ([]netip.Prefix, error) {
	var networks []netip.Prefix
	err := scan(b, func(line string) error {
		first, _ := splitAddress(line)
		if ip, err := netip.ParseAddr(first); err == nil {
			ip = ip.Unmap().WithZone("")
			networks = append(networks, netip.PrefixFrom(ip, ip.BitLen()))
		} else if network, err := netip.ParsePrefix(first); err == nil {
			networks = append(networks, network.Masked())
		} else if !printable(first, false) {
			return fmt.Errorf("%.80q is no host", first)
		}
		return nil
	})
	return networks, err
}

// splitAddress takes the address off a line's front. IPv6 addresses are full of
// colons, so only one with white space or nothing behind it ends the address.
func splitAddress(line string) (address, rest string) {
	address, rest = line, ""
	if i := strings.IndexAny(line, " \t="); i >= 0 {
		address, rest = line[:i], strings.TrimSpace(line[i+1:])
	}
	return strings.TrimSuffix(address, ":"), rest
}

// validName reports whether s may be a user of this host. The rules of the systems
// differ; what matters is that it can stand in a line, a path and a table.
func validName(s string) bool {
	return s != "" && len(s) <= maxName && s[0] != '(' && s != "." && s != ".." &&
		!strings.ContainsAny(s, "/:") && printable(s, false)
}

// validDomain reports whether s, without a final dot, may be a domain of this host.
func validDomain(s string) bool {
	return s != "" && len(s) <= maxDomain && !strings.ContainsAny(s, "/:@") && s[0] != '.' && s[len(s)-1] != '.' && printable(s, false)
}

// printable reports whether s holds only printable ASCII, with or without spaces.
func printable(s string, spaces bool) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] > '~' || s[i] == ' ' && !spaces {
			return false
		}
	}
	return true
}
