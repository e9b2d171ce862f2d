package policy

import "strings"

const (
	maxContact   = 254 // a path of 256 bytes less its two brackets (RFC 5321 section 4.5.3.1.3)
	maxLocalPart = 64  // RFC 5321 section 4.5.3.1.1
	maxLabel     = 63  // RFC 1035 section 2.3.4
)

// ValidContact reports whether s may be the contact address of an account: one mailbox
// with a domain, as RFC 5321 section 4.1.2 writes it without quotes (dot-string) and
// without an address in brackets, of at most 254 bytes.
//
// Customers choose their own. What is more than a plain address (a list, a name before
// it, a quoted local part) is nothing that a report has to be sent to, and one that
// begins with a dash could be an option to a program that sends.
func ValidContact(s string) bool {
	local, domain, ok := strings.Cut(s, "@")
	if !ok || len(s) > maxContact || len(local) > maxLocalPart || s[0] == '-' || !plainDomain(domain) {
		return false
	}
	for atom := range strings.SplitSeq(local, ".") {
		if atom == "" || strings.ContainsFunc(atom, notInAtom) {
			return false
		}
	}
	for label := range strings.SplitSeq(domain, ".") {
		if len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}

// notInAtom tells what RFC 5322 section 3.2.3 has no place for in an atom.
func notInAtom(r rune) bool {
	return r > '~' || !isAlphanumeric(byte(r)) && !strings.ContainsRune("!#$%&'*+-/=?^_`{|}~", r)
}
