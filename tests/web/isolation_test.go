package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"osm/internal/control"
)

// theirs is what carol has, and bob must not get at; nobody's has the same numbers and
// names of things that do not exist.
type theirs struct {
	account, mailbox, ref, messageID, subject string
	event, limit, exemption, hold, audit      int64
	action                                    int64
}

func nobodys() theirs {
	return theirs{account: "nosuchaccount", mailbox: "info@nosuchaccount.example", ref: "zzzzzzzz", messageID: "1zzzzz-000000zzzzz-0000", subject: "Never sent",
		event: 987654, limit: 987654, exemption: 987654, hold: 987654, audit: 987654, action: 987654}
}

// carols makes carol's accounts send, and sets things for them.
func carols(t *testing.T) theirs {
	t.Helper()
	c := theirs{account: "carolblog", mailbox: "info@carolblog.example", subject: "Carol's own business"}
	sendmail(t, c.account, "blog", c.subject, 12) // 10 pass
	h := held(t, c.account, 2)[0]
	c.ref, c.messageID = h.Ref, h.MessageID
	ctl(t, &struct{}{}, "limit", "set", "--account", c.account, "--trigger", "account-hour", "--max", "777", "--reason", "carol's limit")
	ctl(t, &struct{}{}, "exempt", "add", "--account", c.account, "--trigger", "subject-hour", "--ceiling", "555", "--reason", "carol's exemption")
	eventually(t, "carol's event and hold", func() error {
		if len(list[event](t, "events", "--account", c.account)) == 0 || len(list[numbered](t, "hold", "list", "--account", c.account)) == 0 {
			return errors.New("not there")
		}
		return nil
	})
	c.event = list[event](t, "events", "--account", c.account)[0].ID
	c.hold = list[numbered](t, "hold", "list", "--account", c.account)[0].ID
	c.limit = list[numbered](t, "limit", "show", "--account", c.account)[0].ID
	for _, x := range list[numbered](t, "exempt", "list") {
		if x.Account == c.account || x.Value == c.account {
			c.exemption = x.ID
		}
	}
	c.audit = list[numbered](t, "audit")[0].ID
	c.action = list[numbered](t, "actions", "--account", c.account)[0].ID
	return c
}

// routesIn are the patterns of routes in the sources of a package.
func routesIn(t *testing.T, dir, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("..", "..", dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
			out = append(out, strings.Join(m[1:], " "))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// asked is one request for what somebody has.
type asked struct {
	page string // or path, with its query
	body any    // form or JSON
}

// pageRequests are, for each page, the requests for what x has. A page that is not for
// resellers at all, or shows nothing of anybody's, has none: see openPages.
func pageRequests(x theirs) map[string][]asked {
	id := func(n int64) string { return fmt.Sprint(n) }
	settle := func(more ...string) url.Values {
		v := url.Values{"do": {"discard"}, "expect": {"1"}}
		for i := 0; i+1 < len(more); i += 2 {
			v.Set(more[i], more[i+1])
		}
		return v
	}
	limit := url.Values{"level": {"account"}, "name": {x.account}, "trigger": {"account-hour"}, "max": {"5"}, "reason": {"x"}, "do": {"save"}}
	return map[string][]asked{
		"get senders/{account}":       {{page: pageOf("senders", x.account)}, {page: pageOf("senders", x.account) + "?since=7d"}},
		"get events/{id}":             {{page: "events/" + id(x.event)}},
		"get explain":                 {{page: "explain?ref=" + x.ref}, {page: "explain?ref=" + x.messageID}},
		"get held/{ref}":              {{page: "held/" + x.ref}, {page: "held/" + x.messageID}},
		"get limits/edit":             {{page: "limits/edit?level=account&trigger=account-hour&name=" + x.account}, {page: "limits/edit?level=mailbox&trigger=login-hour&name=" + x.mailbox}},
		"get limits/{id}/remove":      {{page: "limits/" + id(x.limit) + "/remove"}},
		"get exemptions/{id}/remove":  {{page: "exemptions/" + id(x.exemption) + "/remove"}},
		"get holds/{id}/end":          {{page: "holds/" + id(x.hold) + "/end"}},
		"post held/confirm":           {{"held/confirm", settle("ref", x.ref)}},
		"post held/settle":            {{"held/settle", settle("ref", x.ref)}, {"held/settle", settle("all", "1", "account", x.account)}},
		"post limits/edit":            {{"limits/edit", limit}},
		"post limits/{id}/remove":     {{"limits/" + id(x.limit) + "/remove", url.Values{"reason": {"x"}}}},
		"post exemptions/new":         {{"exemptions/new", url.Values{"scope": {"account"}, "account": {x.account}, "value": {x.account}, "ceiling": {"5"}, "reason": {"x"}}}},
		"post exemptions/{id}/remove": {{"exemptions/" + id(x.exemption) + "/remove", url.Values{"reason": {"x"}}}},
		"post holds/new":              {{"holds/new", url.Values{"scope": {"account"}, "account": {x.account}, "reason": {"x"}}}},
		"post holds/{id}/end":         {{"holds/" + id(x.hold) + "/end", url.Values{"reason": {"x"}}}},
		"get actions/{id}/undo":       {{page: "actions/" + id(x.action) + "/undo"}},
		"post actions/{id}/undo":      {{"actions/" + id(x.action) + "/undo", url.Values{"reason": {"x"}}}},
		"post audit/{id}/undo":        {{"audit/" + id(x.audit) + "/undo", url.Values{"reason": {"x"}}}},
	}
}

// openPages are those where a reseller asks for nobody by name: lists, forms, and what is
// for operators alone. Nothing of carol's may stand on them, whatever they are asked.
func openPages(x theirs) map[string][]string {
	filter := "?account=" + x.account + "&q=" + x.account + "&mailbox=" + x.mailbox + "&level=account&name=" + x.account + "&state=all&since=30d"
	return map[string][]string{
		"get {$}": {""}, "get now": {"now", "now" + filter}, "get senders": {"senders", "senders" + filter, "senders?q=carol"},
		"get messages": {"messages", "messages" + filter}, "get connections": {"connections", "connections" + filter}, "get events": {"events", "events" + filter}, "get actions": {"actions", "actions" + filter, "actions?standing=1"}, "get held": {"held", "held" + filter},
		"get limits": {"limits", "limits" + filter}, "get exemptions": {"exemptions", "exemptions" + filter}, "get audit": {"audit", "audit" + filter},
		"get exemptions/new": {"exemptions/new"}, "get holds/new": {"holds/new"}, "get help": {"help"},
		"get settings": {"settings"}, "get settings/doctor": {"settings/doctor"}, "get settings/config": {"settings/config"}, "get settings/export": {"settings/export"},
		"get settings/check": {"settings/check"}, "get reset": {"reset?trigger=account-hour&key=" + x.account},
	}
}

// operatorsForms are changes that no reseller may make.
func operatorsForms(x theirs) map[string]asked {
	return map[string]asked{
		"post settings":        {"settings", url.Values{"key": {"checking"}, "value": {"false"}}},
		"post settings/check":  {"settings/check", url.Values{"toml": {"checking = false"}}},
		"post settings/reload": {"settings/reload", url.Values{}},
		"post settings/backup": {"settings/backup", url.Values{"path": {"/var/lib/osm/x.db"}}},
		"post reset":           {"reset", url.Values{"trigger": {"account-hour"}, "key": {x.account}}},
	}
}

// operatorsOnly are changes that a reseller may make for nobody: they are refused before
// anything is looked for.
func operatorsOnly(route string) bool {
	return slices.Contains([]string{
		"get exemptions/{id}/remove", "post exemptions/new", "post exemptions/{id}/remove", "POST /v1/exemptions", "DELETE /v1/exemptions/{id}", "POST /v1/held/release",
	}, route)
}

// told says whether a text tells of carol, beyond what bob said himself.
func told(text string, said string) string {
	for _, word := range []string{"carolblog", "carolmail", "carol@", "Carol's own business", "carol's limit", "carol's exemption", "777", "public_html/blog"} {
		if strings.Contains(text, word) && !strings.Contains(said, word) {
			return word
		}
	}
	return ""
}

// shape is the text of a page (or an answer of the API), without numbers and without the
// names of what was asked for.
func shape(text string, x theirs) string {
	if _, rest, ok := strings.Cut(text, "<main"); ok {
		text, _, _ = strings.Cut(rest, "</main>")
		text = regexp.MustCompile(`name="csrf" value="[^"]*"`).ReplaceAllString(text, "")
	}
	for _, s := range []string{x.mailbox, x.account, x.ref, x.messageID, x.subject} {
		text = strings.ReplaceAll(text, s, "X")
		text = strings.ReplaceAll(text, url.QueryEscape(s), "X")
	}
	return regexp.MustCompile(`[\d,.:-]*\d`).ReplaceAllString(text, "N")
}

func TestAResellerSeesNothingOfAnothersOnAnyPage(t *testing.T) {
	dependOnProduct(t)
	c := carols(t)
	requests, lists, forms := pageRequests(c), openPages(c), operatorsForms(c)
	routes := routesIn(t, "whm-addon", `p\.(get|post)\("([^"]+)"`)
	if len(routes) < 30 {
		t.Fatalf("only %d pages found in the sources: %v", len(routes), routes)
	}
	for _, r := range routes {
		_, form := forms[r]
		if requests[r] == nil && lists[r] == nil && !form {
			t.Errorf("say in this test what a reseller may not see on the page %q", r)
		}
	}
	before := state(t, c)
	for _, v := range visits(t, "bob") {
		csrf := v.get("holds/new").hidden("csrf")
		if csrf == "" {
			t.Fatal("there is no form where a hold is put")
		}
		send := func(route string, a asked) answer {
			form, ok := a.body.(url.Values)
			if !ok {
				return v.get(a.page)
			}
			form.Set("csrf", csrf)
			return v.post(a.page, form)
		}
		for route, all := range requests {
			strangers := pageRequests(nobodys())[route]
			for i, a := range all {
				got, want := send(route, a), send(route, strangers[i])
				if got.StatusCode != http.StatusNotFound && !(got.StatusCode == http.StatusForbidden && operatorsOnly(route)) {
					t.Errorf("%s: %s %s: status %d, want 404: %.300s", v.door.name, route, a.page, got.StatusCode, got.text)
				}
				if g, w := shape(got.text, c), shape(want.text, nobodys()); g != w || got.StatusCode != want.StatusCode {
					t.Errorf("%s: %s %s: it can be told from what is not there:\n%d %s\n--- not there:\n%d %s", v.door.name, route, a.page, got.StatusCode, g, want.StatusCode, w)
				}
			}
		}
		for route, pages := range lists {
			for _, page := range pages {
				if word := told(v.get(page).text, page); word != "" {
					t.Errorf("%s: %s %s tells of %q", v.door.name, route, page, word)
				}
			}
		}
		for route, a := range forms {
			if got := send(route, a); got.StatusCode != http.StatusForbidden && got.StatusCode != http.StatusNotFound {
				t.Errorf("%s: %s: status %d, want it refused", v.door.name, route, got.StatusCode)
			}
		}
	}
	if after := state(t, c); after != before {
		t.Errorf("something of carol's changed:\nbefore %s\nafter  %s", before, after)
	}
	apiToo(t, c)
	if after := state(t, c); after != before {
		t.Errorf("something of carol's changed by the API:\nbefore %s\nafter  %s", before, after)
	}
}

// state is all of carol's that bob might have changed.
func state(t *testing.T, c theirs) string {
	t.Helper()
	var b strings.Builder
	for _, args := range [][]string{
		{"held", "list", "--state", "all", "--account", c.account}, {"hold", "list", "--account", c.account}, {"limit", "show", "--account", c.account},
		{"exempt", "list"}, {"config", "show"},
	} {
		var v json.RawMessage
		ctl(t, &v, args...)
		b.Write(v)
		b.WriteByte('\n')
	}
	return b.String()
}

// apiToo asks every operation of the control API for carol's things in bob's name.
func apiToo(t *testing.T, c theirs) {
	t.Helper()
	client := control.NewClient(machine.ControlSocket())
	defer client.Close()
	client.Assert = http.Header{"X-Osm-User": {"bob"}, "X-Osm-Role": {"reseller"}, "X-Osm-Reseller": {"bob"}}
	routes := routesIn(t, "internal/control", `"(GET|POST|PUT|DELETE) (/[^"]*)":`)
	if len(routes) < 40 {
		t.Fatalf("only %d operations found in the sources: %v", len(routes), routes)
	}
	requests := apiRequests(c)
	for _, route := range routes {
		all, known := requests[route]
		if !known {
			t.Errorf("say in this test what a reseller may not get by %q", route)
		}
		for i, a := range all {
			status, text := askAPI(t, client, route, a)
			other, otherText := askAPI(t, client, route, apiRequests(nobodys())[route][i])
			if strings.Contains(route, "{") || a.body != nil {
				if status != http.StatusNotFound && !(status == http.StatusForbidden && operatorsOnly(route)) {
					t.Errorf("%s %s: status %d, want 404: %.300s", route, a.page, status, text)
				}
				if g, w := shape(text, c), shape(otherText, nobodys()); g != w || status != other {
					t.Errorf("%s %s: it can be told from what is not there:\n%d %s\n%d %s", route, a.page, status, g, other, w)
				}
			}
			said, err := json.Marshal(a.body)
			if err != nil {
				t.Fatal(err)
			}
			if word := told(text, a.page+string(said)); word != "" {
				t.Errorf("%s %s tells of %q: %.300s", route, a.page, word, text)
			}
		}
	}
	for route, a := range operatorsCalls(c) {
		if status, text := askAPI(t, client, route, a); status != http.StatusForbidden && status != http.StatusNotFound {
			t.Errorf("%s: status %d, want it refused: %.300s", route, status, text)
		}
	}
}

func askAPI(t *testing.T, client *control.Client, route string, a asked) (status int, text string) {
	t.Helper()
	method, _, _ := strings.Cut(route, " ")
	u, err := url.Parse(a.page)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var raw []byte
	err = client.Do(ctx, method, u.EscapedPath(), u.Query(), a.body, &raw)
	var refused *control.Error
	switch {
	case errors.As(err, &refused):
		b, _ := json.Marshal(refused)
		return refused.Status, string(b)
	case err != nil:
		t.Fatalf("%s %s: %v", route, a.page, err)
	}
	return http.StatusOK, string(bytes.TrimSpace(raw))
}

// apiRequests are, for each operation, the requests for what x has; none where nothing of
// anybody's is in it, or where it is an operator's alone.
func apiRequests(x theirs) map[string][]asked {
	id := func(n int64) string { return fmt.Sprint(n) }
	list := "?account=" + x.account + "&mailbox=" + x.mailbox + "&q=" + x.account + "&level=account&name=" + x.account + "&state=all"
	one := 1
	settle := []asked{
		{"", control.Settle{Selection: control.Selection{Refs: []string{x.ref}}, Expect: &one}},
		{"", control.Settle{Selection: control.Selection{Refs: []string{x.messageID}}, DryRun: true}},
	}
	at := func(path string, all []asked) []asked {
		out := slices.Clone(all)
		for i := range out {
			out[i].page = path
		}
		return out
	}
	five := int64(5)
	limit := control.Limit{Level: "account", Name: x.account, Trigger: "account-hour", Max: &five, Reason: "x"}
	return map[string][]asked{
		"GET /v1/status": {{page: "/v1/status"}}, "GET /v1/doctor": nil, "GET /v1/tail": nil, "GET /metrics": nil, "POST /v1/backup": nil, "POST /v1/reset": nil,
		"GET /v1/top":             {{page: "/v1/top"}, {page: "/v1/top?by=account"}},
		"GET /v1/usage/{account}": {{page: "/v1/usage/" + x.account}},
		"GET /v1/events":          {{page: "/v1/events"}, {page: "/v1/events" + list}},
		"GET /v1/events/{id}":     {{page: "/v1/events/" + id(x.event)}},
		"GET /v1/explain/{ref}":   {{page: "/v1/explain/" + x.ref}, {page: "/v1/explain/" + x.messageID}},
		"POST /v1/explain":        {{"/v1/explain", control.Describe{Account: x.account, Subject: "x"}}},
		"GET /v1/actions":         {{page: "/v1/actions"}, {page: "/v1/actions" + list}},
		"GET /v1/audit":           {{page: "/v1/audit"}, {page: "/v1/audit" + list}},
		"GET /v1/held":            {{page: "/v1/held"}, {page: "/v1/held" + list}},
		"GET /v1/held/{ref}":      {{page: "/v1/held/" + x.ref}, {page: "/v1/held/" + x.messageID}},
		"POST /v1/held/release":   at("/v1/held/release", settle), "POST /v1/held/discard": at("/v1/held/discard", settle),
		"GET /v1/holds":              {{page: "/v1/holds"}, {page: "/v1/holds" + list}},
		"POST /v1/holds":             {{"/v1/holds", control.Hold{Scope: "account", Account: x.account, Reason: "x"}}},
		"DELETE /v1/holds/{id}":      {{page: "/v1/holds/" + id(x.hold)}},
		"GET /v1/limits":             {{page: "/v1/limits"}, {page: "/v1/limits" + list}},
		"PUT /v1/limits":             {{"/v1/limits", limit}},
		"DELETE /v1/limits/{id}":     {{page: "/v1/limits/" + id(x.limit)}},
		"GET /v1/exemptions":         {{page: "/v1/exemptions"}, {page: "/v1/exemptions" + list}},
		"POST /v1/exemptions":        {{"/v1/exemptions", control.Exemption{Scope: "account", Account: x.account, Ceiling: 5, Reason: "x"}}},
		"DELETE /v1/exemptions/{id}": {{page: "/v1/exemptions/" + id(x.exemption)}},
		"GET /v1/config":             nil, "GET /v1/config/export": nil, "POST /v1/config/check": nil, "POST /v1/config/reload": nil,
		"GET /v1/settings": nil, "PUT /v1/settings": nil,
		"GET /v1/rates":              {{page: "/v1/rates?account=" + x.account}, {page: "/v1/rates"}},
		"GET /v1/near":               {{page: "/v1/near"}},
		"GET /v1/accounts":           {{page: "/v1/accounts"}, {page: "/v1/accounts?q=carol"}, {page: "/v1/accounts?q=" + x.account}},
		"GET /v1/accounts/{account}": {{page: "/v1/accounts/" + x.account}},
		"GET /v1/decisions":          {{page: "/v1/decisions"}, {page: "/v1/decisions?account=" + x.account}},
		"GET /v1/connections":        {{page: "/v1/connections"}, {page: "/v1/connections?account=" + x.account}},
		"GET /v1/connections/tail":   nil,
		"GET /v1/triggers":           {{page: "/v1/triggers"}, {page: "/v1/triggers?level=account&name=" + x.account}},
		"POST /v1/preview":           {{"/v1/preview", limit}},
		"POST /v1/actions/{id}/undo": {{page: "/v1/actions/" + id(x.action) + "/undo"}},
		"POST /v1/audit/{id}/undo":   {{page: "/v1/audit/" + id(x.audit) + "/undo"}},
		"POST /v1/login-links":       nil, "POST /v1/login-links/redeem": nil,
	}
}

// operatorsCalls are what no reseller may ask for.
func operatorsCalls(c theirs) map[string]asked {
	return map[string]asked{
		"GET /v1/doctor": {page: "/v1/doctor"}, "GET /metrics": {page: "/metrics"}, "GET /v1/config/export": {page: "/v1/config/export"},
		"POST /v1/backup":             {"/v1/backup", control.BackupRequest{Path: "/tmp/x"}},
		"POST /v1/reset":              {"/v1/reset", control.ResetRequest{Trigger: "account-hour", Key: c.account}},
		"POST /v1/config/check":       {"/v1/config/check", control.ConfigText{TOML: "checking = true"}},
		"POST /v1/config/reload":      {page: "/v1/config/reload"},
		"PUT /v1/settings":            {"/v1/settings", map[string]string{"key": "checking", "value": "false"}},
		"POST /v1/login-links":        {"/v1/login-links", control.LoginLink{User: "root", Role: control.Operator}},
		"POST /v1/login-links/redeem": {"/v1/login-links/redeem", map[string]string{"token": "x"}},
	}
}
