package report

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// node is a value of the document. YAML, XML and Perl are written from a tree of nodes
// that was read from the JSON, so that all formats hold the same by construction.
type node struct {
	kind  kind
	text  string   // of a text, a number, a truth
	names []string // of an object, in order
	nodes []node   // of an object or a list
}

type kind uint8

const (
	kindNothing kind = iota
	kindText
	kindNumber
	kindTruth // "true" or "false"
	kindList  // a list
	kindObject
)

// treeOf reads a JSON document of our own.
func treeOf(document []byte) (node, error) {
	d := json.NewDecoder(bytes.NewReader(document))
	d.UseNumber()
	return readNode(d)
}

func readNode(d *json.Decoder) (node, error) {
	token, err := d.Token()
	if err != nil {
		return node{}, fmt.Errorf("read report: %w", err)
	}
	switch v := token.(type) {
	case string:
		return node{kind: kindText, text: v}, nil
	case json.Number:
		return node{kind: kindNumber, text: v.String()}, nil
	case bool:
		return node{kind: kindTruth, text: fmt.Sprint(v)}, nil
	case json.Delim:
		return readNodes(d, v == '{')
	}
	return node{}, nil
}

// readNodes reads what is left of an object or a list.
func readNodes(d *json.Decoder, isObject bool) (node, error) {
	n := node{kind: kindList}
	if isObject {
		n.kind = kindObject
	}
	for d.More() {
		if isObject {
			name, err := d.Token()
			if err != nil {
				return node{}, fmt.Errorf("read report: %w", err)
			}
			n.names = append(n.names, name.(string)) // JSON has no other names
		}
		one, err := readNode(d)
		if err != nil {
			return node{}, err
		}
		n.nodes = append(n.nodes, one)
	}
	_, err := d.Token() // the end
	return n, err
}
