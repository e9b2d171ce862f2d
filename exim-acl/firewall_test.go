package eximacl

import (
	"strings"
	"testing"
)

// Nobody would lift a block of ours that has no end; tables of others are none of our
// business.
func TestUninstallTakesOurTableOutOfTheFirewall(t *testing.T) {
	b := installer(t, true)
	b.installs(0, "install")
	const others = "add table inet filter; add chain inet filter input { type filter hook input priority 0; policy accept; }; add rule inet filter input tcp dport 25 accept"
	b.Run("nft", others)
	before := b.Run("nft", "list", "ruleset")
	b.Run("nft", "add table inet osm; add set inet osm blocked4 { type ipv4_addr; flags timeout; }; add element inet osm blocked4 { 203.0.113.2 }")
	if out := b.installs(0, "uninstall"); !strings.Contains(out, "took osm's table out of nftables") {
		t.Errorf("it says\n%s", out)
	}
	if after := b.Run("nft", "list", "ruleset"); after != before {
		t.Errorf("the rules are\n%swere\n%s", after, before)
	}
	if out := b.installs(0, "uninstall"); strings.Contains(out, "nftables") {
		t.Errorf("where there is no table it says\n%s", out)
	}
}
