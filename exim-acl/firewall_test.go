package eximacl

import (
	"strings"
	"testing"
)

// Nobody would lift a block of ours that has no end; tables of others are none of our
// business.
func TestUninstallTakesOurTablesOutOfTheFirewall(t *testing.T) {
	b := installer(t, true)
	b.installs(0, "install")
	const others = "add table inet filter; add chain inet filter input { type filter hook input priority 0; policy accept; }; add rule inet filter input tcp dport 25 accept"
	b.Run("nft", others)
	before := b.Run("nft", "list", "ruleset")
	b.Run("nft", "add table inet osm; add set inet osm blocked4 { type ipv4_addr; flags timeout; }; add element inet osm blocked4 { 203.0.113.2 }")
	b.Run("nft", "add table inet osm_direct; add set inet osm_direct blocked_uids { type uid; flags timeout; }; add element inet osm_direct blocked_uids { 20001 }")
	out := b.installs(0, "uninstall")
	for _, table := range []string{"osm", "osm_direct"} {
		if !strings.Contains(out, "took osm's table "+table+" out of nftables") {
			t.Errorf("of the table %s it says\n%s", table, out)
		}
	}
	if after := b.Run("nft", "list", "ruleset"); after != before {
		t.Errorf("the rules are\n%swere\n%s", after, before)
	}
	if out := b.installs(0, "uninstall"); strings.Contains(out, "nftables") {
		t.Errorf("where there is no table it says\n%s", out)
	}
}
