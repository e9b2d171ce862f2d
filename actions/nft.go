package actions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// nft keeps addresses out by nftables, in the table "inet osm" that is ours alone. No other
// table is read or written. The elements of its two sets end by themselves, and carry the
// id of their record as a comment.
//
// The table stands while one of them does. Who flushes the whole ruleset, as a restart of
// Debian's nftables.service does, takes it away.
type nft struct {
	cmd command
	now func() time.Time
}

func (f nft) ready(netip.Addr) error { return nil }

func setOf(addr netip.Addr) string {
	if addr.Is4() {
		return "blocked4"
	}
	return "blocked6"
}

// tableRules makes the table, or leaves it as it is: one transaction, in which the chain is
// emptied first, as a rule that is there would be added again. Connections that are open are
// cut too. A drop is final whatever other tables say. It follows the word "add".
const tableRules = `table inet osm;
add set inet osm blocked4 { type ipv4_addr; flags timeout; };
add set inet osm blocked6 { type ipv6_addr; flags timeout; };
add chain inet osm input { type filter hook input priority 0; policy accept; };
flush chain inet osm input;
add rule inet osm input ip saddr @blocked4 tcp dport { ` + mailPorts + ` } drop;
add rule inet osm input ip6 saddr @blocked6 tcp dport { ` + mailPorts + ` } drop;
`

func (f nft) block(ctx context.Context, r *Record, addr netip.Addr) (string, error) {
	note, there, err := f.element(ctx, addr)
	if err != nil {
		return "", err
	}
	if there && !strings.Contains(note, mark(r)) {
		return "", leftAlone{fmt.Sprintf("%s is in set %s of table inet osm already: %.80q", addr, setOf(addr), note)}
	}
	// Added again, so that after a crash the whole time runs, and the rules are there.
	add := tableRules
	if there {
		add += fmt.Sprintf("delete element inet osm %s { %s };\n", setOf(addr), addr)
	}
	timeout := ""
	if r.For > 0 {
		timeout = fmt.Sprintf(" timeout %ds", seconds(r.For))
	}
	add += fmt.Sprintf("add element inet osm %s { %s%s comment %q };\n", setOf(addr), addr, timeout, "osm "+mark(r))
	out, runErr := f.cmd.run(ctx, "add", add)
	note, there, err = f.element(ctx, addr)
	if err == nil && there && strings.Contains(note, mark(r)) {
		return fmt.Sprintf("nft blocks %s on ports %s %s", addr, mailPorts, lasts(r, f.now())), nil
	}
	return "", said(fmt.Sprintf("nft did not block %s", addr), out, errors.Join(runErr, err))
}

func (f nft) unblock(ctx context.Context, r *Record, addr netip.Addr) (string, error) {
	note, there, err := f.element(ctx, addr)
	if err != nil {
		return "", err
	}
	if !there || !strings.Contains(note, mark(r)) {
		return gone(r, f.now()), f.dropTable(ctx)
	}
	out, runErr := f.cmd.run(ctx, "delete", fmt.Sprintf("element inet osm %s { %s }", setOf(addr), addr))
	note, there, err = f.element(ctx, addr)
	if err != nil || (there && strings.Contains(note, mark(r))) {
		return "", said(fmt.Sprintf("nft did not unblock %s", addr), out, errors.Join(runErr, err))
	}
	return fmt.Sprintf("nft does not block %s any more", addr), f.dropTable(ctx)
}

func (f nft) stands(ctx context.Context, r *Record, addr netip.Addr) (bool, error) {
	note, there, err := f.element(ctx, addr)
	return there && strings.Contains(note, mark(r)), err
}

// element reports whether the address is in its set, and with what comment.
func (f nft) element(ctx context.Context, addr netip.Addr) (note string, there bool, err error) {
	elems, err := f.elements(ctx, setOf(addr))
	for _, e := range elems {
		if a, err := netip.ParseAddr(e.addr); err == nil && a == addr {
			return e.note, true, nil
		}
	}
	return "", false, err
}

// dropTable takes the table away when it holds nothing any more, so that the machine is as
// it was.
func (f nft) dropTable(ctx context.Context) error {
	for _, set := range []string{"blocked4", "blocked6"} {
		if elems, err := f.elements(ctx, set); err != nil || len(elems) > 0 {
			return err
		}
	}
	if out, err := f.cmd.run(ctx, "delete", "table inet osm"); err != nil && !missing(out) {
		return said("nft did not delete the table inet osm", out, err)
	}
	return nil
}

// missing reports whether nft says that there is no such thing.
func missing(out string) bool { return strings.Contains(out, "No such file or directory") }

type nftElement struct{ addr, note string }

// maxSet is how much of a set's list is read: some hundred thousand addresses. Our rate
// fills it in no time that a block may last.
const maxSet = 16 << 20

// elements lists a set; none where there is no table.
func (f nft) elements(ctx context.Context, set string) ([]nftElement, error) {
	list := f.cmd
	list.output = maxSet
	out, err := list.run(ctx, "-j", "list", "set", "inet", "osm", set)
	if err != nil {
		if missing(out) {
			return nil, nil
		}
		return nil, said("nft did not list the set "+set, out, err)
	}
	return parseSet([]byte(out))
}

// parseSet reads nft's JSON (libnftables-json(5)). An element is a text, or with a timeout
// or a comment {"elem":{"val":…}}.
func parseSet(b []byte) ([]nftElement, error) {
	var doc struct {
		Nftables []struct {
			Set *struct {
				Elem []json.RawMessage `json:"elem"`
			} `json:"set"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("read nft's list of a set: %w", err)
	}
	var out []nftElement
	for _, o := range doc.Nftables {
		if o.Set == nil {
			continue
		}
		for _, raw := range o.Set.Elem {
			var plain string
			var full struct {
				Elem struct {
					Val     string `json:"val"`
					Comment string `json:"comment"`
				} `json:"elem"`
			}
			if json.Unmarshal(raw, &plain) == nil {
				out = append(out, nftElement{addr: plain})
			} else if err := json.Unmarshal(raw, &full); err != nil {
				return nil, fmt.Errorf("read nft's list of a set: %w", err)
			} else {
				out = append(out, nftElement{full.Elem.Val, full.Elem.Comment})
			}
		}
	}
	return out, nil
}
