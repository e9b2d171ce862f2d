package policy

import "strings"

// soleRecipientDomain gives the one domain that every recipient of s is in.
//
// It is asked only to lift limits, so every doubt is a no: a list that was cut or does
// not have as many addresses as Exim counted, anything quoted, escaped, commented or
// not plain ASCII, and local parts by which a relay may mean another host (% and !).
func soleRecipientDomain(s *Submission) (string, bool) {
	if s.RecipientsCut || s.RecipientList == "" {
		return "", false
	}
	domain, n := "", 0
	for rest, more := s.RecipientList, true; more; n++ {
		var address string
		address, rest, more = strings.Cut(rest, ",")
		if n > 0 { // Exim writes ", " between two
			if !strings.HasPrefix(address, " ") {
				return "", false
			}
			address = address[1:]
		}
		at := strings.IndexByte(address, '@')
		if at < 1 || !plainLocalPart(address[:at]) || !plainDomain(address[at+1:]) {
			return "", false
		}
		d := address[at+1:]
		if n > 0 && !strings.EqualFold(d, domain) {
			return "", false
		}
		domain = d
	}
	if n != s.Recipients {
		return "", false
	}
	return lowerASCII(domain), true
}

// plainLocalPart reports whether s is made of RFC 5322 atom characters and dots,
// without those that route.
func plainLocalPart(s string) bool {
	for i := 0; i < len(s); i++ {
		if !isAlphanumeric(s[i]) && !strings.ContainsRune(".#$&'*+-/=?^_`{|}~", rune(s[i])) {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// plainDomain reports whether s is a host name: no literal, no underscore, no final dot.
func plainDomain(s string) bool {
	if s == "" || len(s) > 253 || s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, "..") {
		return false
	}
	for i := 0; i < len(s); i++ {
		if !isAlphanumeric(s[i]) && s[i] != '.' && s[i] != '-' {
			return false
		}
	}
	return true
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// lowerASCII is strings.ToLower for host names: it leaves every other byte alone.
func lowerASCII(s string) string {
	for i := 0; i < len(s); i++ {
		if s[i] >= 'A' && s[i] <= 'Z' {
			b := []byte(s)
			for j := i; j < len(b); j++ {
				if b[j] >= 'A' && b[j] <= 'Z' {
					b[j] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}
