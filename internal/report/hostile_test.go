package report

import (
	"reflect"
	"strings"

	store "osm/sql"
)

// hostileTexts are what spammers, account owners and testers put into Subjects, paths
// and addresses.
func hostileTexts() map[string]string {
	var every strings.Builder
	for b := range 0x100 {
		every.WriteByte(byte(b))
	}
	return map[string]string{
		"nothing":                  "",
		"spaces":                   "  \t ",
		"every byte":               every.String(),
		"every C1 control":         "\u0080\u0085\u009f\u00a0\u00ad",
		"NUL in the middle":        "a\x00b",
		"line breaks":              "a\nb\r\nc\rd\n\re\r",
		"Unicode line breaks":      "a\u0085b\u2028c\u2029d",
		"noncharacters and BOM":    "\ufeff\ufffe\uffff\ufffd\U0001ffff\U0010ffff",
		"direction and zero width": "\u202egpj.exe\u200b\u200d\u2066",
		"beyond the 16-bit plane":  "😀 𝔘𝔫𝔦 \U000e0001",
		"invalid UTF-8":            "a\xff\xc3(\xed\xa0\x80\xf4\x90\x80\x80",
		"end of CDATA":             "]]><!-- --><x>&lt;&#0;&unknown;",
		"XML entities":             `<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>&e;<?php ?>`,
		"JSON in XML":              "\x01\\u0041\"\\",
		"Perl interpolation":       "${\\system('id')} @{[ `id` ]} $x @x %x",
		"Perl quotes":              `'; system("id"); ' . '\'\\' \`,
		"Perl end":                 "\n__END__\n=pod\n\n=cut\n# line 1 \"x\"\n};\x04\x1a",
		"backticks":                "`id` $(id) ;reboot | id",
		"YAML tag":                 `!!python/object/apply:os.system ["id"]`,
		"YAML anchors":             "&a *a <<: *a ? : - # %YAML 1.1\n---\n...\n",
		"YAML words":               "yes",
		"YAML null":                "~",
		"YAML number":              "0x1F",
		"YAML date":                "2026-11-03",
		"YAML escape":              `\x41\u0041\"`,
		"mail header":              "x\r\nBcc: all@example.com\r\n\r\nbody",
		"encoded word":             "=?utf-8?q?=0D=0ABcc:_all?=",
		"template":                 "{{.Host}} {{template \"x\"}}",
		"a link":                   "https://evil.example/login",
		"end of a mail":            ".\nFrom x\n.\n",
		"64 KiB":                   strings.Repeat("ä'\\\n", 16<<10),
		"64 KiB of NUL":            strings.Repeat("\x00", 64<<10),
		"64 KiB of DEL":            strings.Repeat("\x7f", 64<<10), // the longest in Perl
	}
}

// hostileFacts have a text in every field, and n of each list.
func hostileFacts(s string, n int) Facts {
	f := Facts{Also: make([]store.Event, n)}
	f.Event.Messages, f.Event.Actions, f.Event.Requests = make([]store.Decision, n), make([]store.Action, n), make([]store.Evidence, n)
	f.Event.Connections = make([]store.Connection, n)
	for i := range f.Event.Connections {
		f.Event.Connections[i].Arguments, f.Event.Connections[i].StartedBy = make([]string, n), new(store.Process)
	}
	fill(reflect.ValueOf(&f).Elem(), s)
	f.Event.ID = 17
	f.Accounts = nil
	return f
}

// fill sets every text below v, and every number to a large one.
func fill(v reflect.Value, s string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Int, reflect.Int64:
		v.SetInt(1<<53 + 1)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Pointer:
		if !v.IsNil() {
			fill(v.Elem(), s)
		}
	case reflect.Slice:
		for i := range v.Len() {
			fill(v.Index(i), s)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && !f.Anonymous && f.Type.String() != "time.Time" {
				fill(v.Field(i), s)
			}
		}
	}
}
