package store

import (
	"strings"
	"testing"
	"unsafe"
)

// A text is a part of its row's one string: to keep the part is to keep the row.
func TestNamesKeepNoRowAlive(t *testing.T) {
	const row = "a subject that comes again, and all that a row holds beside it"
	n := newNames(1)
	var rows []string
	for range 4 {
		rows = append(rows, strings.Clone(row))
	}
	for _, r := range rows {
		n.value(r[2:26])
	}
	if len(n.young) != 1 || len(n.fresh) != 1 {
		t.Fatalf("remembered %v and numbered %v, want one text", n.young, n.fresh)
	}
	kept := []string{n.fresh[0].text}
	for text := range n.young {
		kept = append(kept, text)
	}
	for _, text := range kept {
		for i, r := range rows {
			if unsafe.StringData(text) == unsafe.StringData(r[2:]) {
				t.Errorf("the text %q keeps row %d", text, i)
			}
		}
	}
}
