package actions

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// nft keeps addresses out by nftables, in the table "inet osm".
type nft struct {
	table nftTable
	now   func() time.Time
}

func newNFT(cmd command, now func() time.Time) nft {
	return nft{nftTable{cmd: cmd, name: "osm", sets: []string{"blocked4", "blocked6"}, rules: tableRules}, now}
}

func (f nft) ready(netip.Addr) error { return nil }

// entryOf is how an address is put into its set.
func entryOf(addr netip.Addr) nftEntry {
	e := nftEntry{set: "blocked6", value: addr.String(), is: func(listed string) bool {
		a, err := netip.ParseAddr(listed)
		return err == nil && a == addr
	}}
	if addr.Is4() {
		e.set = "blocked4"
	}
	return e
}

// tableRules are the [nftTable]'s. Connections that are open are cut too. A drop is final
// whatever other tables say.
const tableRules = `table inet osm;
add set inet osm blocked4 { type ipv4_addr; flags timeout; };
add set inet osm blocked6 { type ipv6_addr; flags timeout; };
add chain inet osm input { type filter hook input priority 0; policy accept; };
flush chain inet osm input;
add rule inet osm input ip saddr @blocked4 tcp dport { ` + mailPorts + ` } drop;
add rule inet osm input ip6 saddr @blocked6 tcp dport { ` + mailPorts + ` } drop;
`

func (f nft) block(ctx context.Context, r *Record, addr netip.Addr) (string, error) {
	if err := f.table.add(ctx, r, entryOf(addr)); err != nil {
		return "", err
	}
	return fmt.Sprintf("nft blocks %s on ports %s %s", addr, mailPorts, lasts(r, f.now())), nil
}

func (f nft) unblock(ctx context.Context, r *Record, addr netip.Addr) (string, error) {
	was, err := f.table.remove(ctx, r, entryOf(addr))
	switch {
	case err != nil:
		return "", err
	case !was:
		return gone(r, f.now()), nil
	}
	return fmt.Sprintf("nft does not block %s any more", addr), nil
}

func (f nft) stands(ctx context.Context, r *Record, addr netip.Addr) (bool, error) {
	return f.table.stands(ctx, r, entryOf(addr))
}
