package actions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// nftTable is a table of nftables, of the family inet, that is ours alone: no other is read
// or written. The elements of its sets end by themselves, and carry the id of their record
// as a comment.
//
// The table stands while it has an element. Who flushes the whole ruleset, as a restart of
// Debian's nftables.service does, takes it away.
type nftTable struct {
	cmd  command
	name string
	sets []string
	// rules makes the table, or leaves it as it is: one transaction, in which the chain is
	// emptied first, as a rule that is there would be added again. It follows the word "add".
	rules string
}

// nftEntry is what is put into a set, and how it is known in nft's list of it.
type nftEntry struct {
	set, value string
	is         func(listed string) bool
}

// add puts an entry in for the time that the record says, and sees that it is there. One
// that is not this record's is left alone.
func (t nftTable) add(ctx context.Context, r *Record, e nftEntry) error {
	note, there, err := t.element(ctx, e)
	if err != nil {
		return err
	}
	if there && !strings.Contains(note, mark(r)) {
		return leftAlone{fmt.Sprintf("%s is in set %s of table inet %s already: %.80q", e.value, e.set, t.name, note)}
	}
	// Added again, so that after a crash the whole time runs, and the rules are there.
	add := t.rules
	if there {
		add += fmt.Sprintf("delete element inet %s %s { %s };\n", t.name, e.set, e.value)
	}
	timeout := ""
	if r.For > 0 {
		timeout = fmt.Sprintf(" timeout %ds", seconds(r.For))
	}
	add += fmt.Sprintf("add element inet %s %s { %s%s comment %q };\n", t.name, e.set, e.value, timeout, "osm "+mark(r))
	out, runErr := t.cmd.run(ctx, "add", add)
	stands, err := t.stands(ctx, r, e)
	if err == nil && stands {
		return nil
	}
	return said(fmt.Sprintf("nft did not block %s", e.value), out, errors.Join(runErr, err))
}

// remove takes an entry out that is the record's, and the table when it holds nothing any
// more. was is false if there was none of the record's.
func (t nftTable) remove(ctx context.Context, r *Record, e nftEntry) (was bool, err error) {
	stands, err := t.stands(ctx, r, e)
	if err != nil {
		return false, err
	}
	if !stands {
		return false, t.drop(ctx)
	}
	out, runErr := t.cmd.run(ctx, "delete", fmt.Sprintf("element inet %s %s { %s }", t.name, e.set, e.value))
	stands, err = t.stands(ctx, r, e)
	if err != nil || stands {
		return true, said(fmt.Sprintf("nft did not unblock %s", e.value), out, errors.Join(runErr, err))
	}
	return true, t.drop(ctx)
}

// stands reports whether an entry is there and the record's.
func (t nftTable) stands(ctx context.Context, r *Record, e nftEntry) (bool, error) {
	note, there, err := t.element(ctx, e)
	return there && strings.Contains(note, mark(r)), err
}

// element reports whether an entry is in its set, and with what comment.
func (t nftTable) element(ctx context.Context, e nftEntry) (note string, there bool, err error) {
	elems, err := t.elements(ctx, e.set)
	for _, l := range elems {
		if e.is(l.value) {
			return l.note, true, nil
		}
	}
	return "", false, err
}

// drop takes the table away when it holds nothing any more, so that the machine is as it
// was.
func (t nftTable) drop(ctx context.Context) error {
	for _, set := range t.sets {
		if elems, err := t.elements(ctx, set); err != nil || len(elems) > 0 {
			return err
		}
	}
	if out, err := t.cmd.run(ctx, "delete", "table inet "+t.name); err != nil && !missing(out) {
		return said("nft did not delete the table inet "+t.name, out, err)
	}
	return nil
}

// missing reports whether nft says that there is no such thing.
func missing(out string) bool { return strings.Contains(out, "No such file or directory") }

// nftElement is an element as nft lists it.
type nftElement struct{ value, note string }

// maxSet is how much of a set's list is read: some hundred thousand addresses. Our rate
// fills it in no time that a block may last.
const maxSet = 16 << 20

// elements lists a set; none where there is no table.
func (t nftTable) elements(ctx context.Context, set string) ([]nftElement, error) {
	list := t.cmd
	list.output = maxSet
	out, err := list.run(ctx, "-j", "list", "set", "inet", t.name, set)
	if err != nil {
		if missing(out) {
			return nil, nil
		}
		return nil, said("nft did not list the set "+set, out, err)
	}
	return parseSet([]byte(out))
}

// parseSet reads nft's JSON (libnftables-json(5)). An element is a text or a number, or with
// a timeout or a comment {"elem":{"val":…}}.
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
			var plain setValue
			var full struct {
				Elem struct {
					Val     setValue `json:"val"`
					Comment string   `json:"comment"`
				} `json:"elem"`
			}
			if json.Unmarshal(raw, &plain) == nil {
				out = append(out, nftElement{value: string(plain)})
			} else if err := json.Unmarshal(raw, &full); err != nil {
				return nil, fmt.Errorf("read nft's list of a set: %w", err)
			} else {
				out = append(out, nftElement{string(full.Elem.Val), full.Elem.Comment})
			}
		}
	}
	return out, nil
}

// setValue is a text, a number as it was written, or a range of them as nft's own language
// has it.
type setValue string

// UnmarshalJSON reads any of them.
func (v *setValue) UnmarshalJSON(b []byte) error {
	switch {
	case len(b) > 0 && b[0] == '{':
		var interval struct {
			Range []setValue `json:"range"`
		}
		if err := json.Unmarshal(b, &interval); err != nil {
			return err
		}
		if len(interval.Range) != 2 {
			return errors.New("an element that is no range")
		}
		*v = interval.Range[0] + "-" + interval.Range[1]
		return nil
	case len(b) > 0 && b[0] == '"':
		return json.Unmarshal(b, (*string)(v))
	}
	var number json.Number
	err := json.Unmarshal(b, &number)
	*v = setValue(number)
	return err
}
