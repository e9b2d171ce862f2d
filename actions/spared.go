package actions

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// unblockable are networks that no stranger comes from. Those for documentation are not
// here: no mail comes from them, and they harm nobody.
var unblockable = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // carrier's own (RFC 6598)
	netip.MustParsePrefix("192.0.0.0/24"),  // protocols (RFC 6890)
	netip.MustParsePrefix("198.18.0.0/15"), // measuring (RFC 2544)
	netip.MustParsePrefix("240.0.0.0/4"),   // reserved, broadcast
}

// allocated is the part of IPv6 from which public addresses are given out. Outside of it
// lie, among others, the addresses that translators make of private ones.
var allocated = netip.MustParsePrefix("2000::/3")

// public refuses an address that is not one of the public network.
func public(addr netip.Addr) error {
	no := !addr.IsGlobalUnicast() || addr.IsPrivate() || (addr.Is6() && !allocated.Contains(addr))
	for _, p := range unblockable {
		no = no || p.Contains(addr)
	}
	if no {
		return refusal{addr.String() + " is no public address", "private, local and reserved addresses are never blocked"}
	}
	return nil
}

// spared refuses an address of this machine's, of the operator's session or lists, or one
// that this machine depends on.
func (b *blockIP) spared(addr netip.Addr) error {
	own, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("list this machine's addresses: %w", err)
	}
	for _, a := range own {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == addr {
			return refusal{addr.String() + " is an address of this machine", ""}
		}
	}
	for _, s := range b.o.NeverBlock {
		if p, ok := network(s); ok && p.Contains(addr) {
			return refusal{fmt.Sprintf("%s is in never_block (%s)", addr, s), "see executor.toml"}
		}
	}
	if name := b.operatorAt(addr); name != "" {
		return refusal{fmt.Sprintf("%s is logged in from %s", name, addr), "decide by hand"}
	}
	for _, l := range b.lists() {
		p, in, err := l.find(addr)
		if err != nil {
			return err
		}
		if in != "" {
			return refusal{fmt.Sprintf("%s %s: %s names %s", addr, l.what, in, p), "take it out there, or decide by hand"}
		}
	}
	return nil
}

// addressList is a text file that names addresses and networks.
type addressList struct {
	root, path string
	what       string // what it says about an address that it names
}

// lists are csf's own, because "csf -td" looks at none of them, and those of what mail
// depends on. csf.dyndns names hosts: the addresses that lfd found for them are in
// csf.tempdyn. csf's are read where nft blocks too, as they are the operator's word.
func (b *blockIP) lists() []addressList {
	var out []addressList
	for _, l := range [][2]string{
		{"/etc/csf/csf.allow", "is allowed by csf"}, {"/etc/csf/csf.ignore", "is ignored by csf"},
		{"/etc/csf/csf.dyndns", "is allowed by csf"}, {"/var/lib/csf/csf.tempdyn", "is allowed by csf"},
		{"/var/lib/csf/csf.tempgdyn", "is allowed by csf"}, {"/var/lib/csf/csf.gallow", "is allowed by csf"},
		{"/var/lib/csf/csf.gignore", "is ignored by csf"},
		{"/etc/resolv.conf", "is this machine's resolver"},
		{"/var/cpanel/cpnat", "is an address of this machine"}, // behind a NAT: what it is outside
	} {
		out = append(out, addressList{b.o.root, l[0], l[1]})
	}
	return out
}

// Limits of the lists, together with what they include.
const (
	maxListBytes = 8 << 20
	maxListFiles = 50
)

// find returns the entry that holds addr and the file in which it stands, "" for none. A
// list that is not there names nobody; one that cannot be read is an error, as it may.
func (l addressList) find(addr netip.Addr) (p netip.Prefix, in string, err error) {
	files, left := []string{l.path}, int64(maxListBytes)
	for i := 0; i < len(files); i++ {
		if i >= maxListFiles {
			return p, "", fmt.Errorf("%s includes more than %d files", l.path, maxListFiles)
		}
		err := eachLine(filepath.Join("/", l.root, files[i]), &left, func(line string) bool {
			// csf: "Include" at the beginning of a line, in this case alone, the rest is a path.
			if name, ok := strings.CutPrefix(line, "Include"); ok {
				files = appendNew(files, strings.TrimSpace(name))
				return true
			}
			if q, ok := names(line, addr); ok {
				p, in = q, files[i]
			}
			return in == ""
		})
		if err != nil || in != "" {
			return p, in, err
		}
	}
	return p, "", nil
}

func appendNew(files []string, name string) []string {
	for _, f := range files {
		if f == name {
			return files
		}
	}
	if name == "" {
		return files
	}
	return append(files, name)
}

// names finds the address or network in a line that holds addr. A line is an address, a
// network, or a rule such as "tcp|in|d=25|s=192.0.2.0/24"; what a rule is about does not
// matter here: who is named is known to the operator.
func names(line string, addr netip.Addr) (netip.Prefix, bool) {
	line, _, _ = strings.Cut(line, "#")
	for _, word := range strings.FieldsFunc(line, func(r rune) bool { return r <= ' ' || strings.ContainsRune("|=,;", r) }) {
		p, ok := network(word)
		if !ok && strings.Contains(word, ".") { // csf's older "tcp:in:s=192.0.2.1:d=25"
			word, _, _ = strings.Cut(word, ":")
			p, ok = network(word)
		}
		if ok && p.Contains(addr) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// network reads an address or a network.
func network(s string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		a = a.WithZone("").Unmap()
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(s)
	if err == nil && p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p, err == nil
}

// eachLine calls f for each line of a plain file until f says false. left bounds the bytes.
func eachLine(path string, left *int64, f func(line string) bool) error {
	// A fifo must not stop us.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read a list of addresses: %w", err)
	}
	defer file.Close()
	if st, err := file.Stat(); err != nil || !st.Mode().IsRegular() {
		return errors.Join(fmt.Errorf("read a list of addresses: %q is no plain file", path), err)
	}
	r := bufio.NewScanner(io.LimitReader(file, *left))
	r.Buffer(nil, 64<<10)
	for r.Scan() {
		if *left -= int64(len(r.Bytes())) + 1; *left <= 0 {
			return fmt.Errorf("read a list of addresses: %q and what it belongs to have more than %d bytes", path, maxListBytes)
		}
		if !f(strings.TrimSpace(r.Text())) {
			return nil
		}
	}
	if err := r.Err(); err != nil {
		return fmt.Errorf("read a list of addresses: %q: %w", path, err)
	}
	return nil
}
