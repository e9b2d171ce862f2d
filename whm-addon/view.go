package whm

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"osm/internal/control"
)

//go:embed templates
var templateFiles embed.FS

// loadTemplates makes one set for each page: the frame and the parts that pages share, and
// the page's own.
func loadTemplates(functions template.FuncMap) (map[string]*template.Template, error) {
	frame, err := template.New("").Funcs(functions).ParseFS(templateFiles, "templates/*.html")
	if err != nil {
		return nil, fmt.Errorf("read the page's frame: %w", err)
	}
	list, err := fs.Glob(templateFiles, "templates/pages/*.html")
	if err != nil {
		return nil, fmt.Errorf("list the pages: %w", err)
	}
	all := make(map[string]*template.Template, len(list))
	for _, file := range list {
		t, err := frame.Clone()
		if err == nil {
			t, err = t.ParseFS(templateFiles, file)
		}
		if err != nil {
			return nil, fmt.Errorf("read page %s: %w", file, err)
		}
		all[strings.TrimSuffix(path.Base(file), ".html")] = t
	}
	return all, nil
}

// functions are what templates can call besides the methods of [view].
func (p *pages) functions() template.FuncMap {
	return template.FuncMap{
		"path": pagePath, "num": decimal, "counted": counted, "size": size, "per": period, "percent": percent,
		"text": quoted, "tail": tailed, "key_text": keyText, "or_none": orNone, "shown": shown, "lines": shownLines,
		"moment": p.moment, "clock": p.clockTime, "ago": p.ago, "ahead": p.ahead,
		"icon": icon, "verdict": verdictBadge, "decided": decisionBadge, "event_badge": eventBadge, "action_badge": actionBadge, "action_list": actionList, "mode": modeBadge, "state": stateBadge,
		"watch": watchText, "key_part": keyPart, "source": sourceText, "why": whyText, "scope": scopeText, "release": releaseText,
		"outcome": outcomeBadge, "seen_badge": connectionBadge, "uid_text": uidText, "process_text": processText, "arguments": argumentsText, "of_connections": ofConnections, "noun": nounOf,
		"actions": actionsText, "bar": bar, "share": share, "limit_text": limitText, "limit_whom": limitWhom, "exempt_text": exemptText,
		"hold_text": holdText, "json_lines": jsonLines, "upper": upperFirst, "on_page": onPage, "other_origin": otherOrigin,
	}
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// call is one request for a page.
type call struct {
	*http.Request
	w     http.ResponseWriter
	p     *pages
	front front
	actor control.Actor
	now   time.Time
	typed typed // the form that was sent and refused
}

// typed is a form that was not accepted: it is shown again, with what was wrong.
type typed struct {
	Form   string // its name in the page
	Values url.Values
	Err    *control.Error
}

// view is what a template sees.
type view struct {
	c       *call
	Title   string
	Section string // the entry of the menu that it belongs to
	Body    any
	Notes   []note
}

// show renders a page.
func (c *call) show(name, section, title string, body any) error {
	status := http.StatusOK
	if c.typed.Err != nil {
		status = c.typed.Err.Status
	}
	return c.write(status, name, &view{c: c, Title: title, Section: section, Body: body})
}

func (c *call) write(status int, name string, v *view) error {
	part := c.URL.Query().Get("part") == "1"
	root := "layout"
	if part {
		root = "live"
	} else {
		v.Notes = c.p.notes.take(c.noteKey(), c.now)
	}
	t := c.p.templates[name]
	if part && t.Lookup("live") == nil {
		return refusal(http.StatusNotFound, "", "this page has no part of its own")
	}
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, root, v); err != nil {
		return fmt.Errorf("make page %s: %w", name, err)
	}
	c.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	c.w.WriteHeader(status)
	_, _ = c.w.Write(b.Bytes()) // the client may have gone
	return nil
}

// done leads to another page after a change: reloading it repeats nothing.
func (c *call) done(page string, pairs ...string) error {
	c.w.Header().Set("Location", c.front.to(page, pairs...))
	c.w.WriteHeader(http.StatusSeeOther)
	return nil
}

// refused keeps a form that was not accepted, to be shown again with what was wrong. What is
// no refusal of the form (nobody may do that, nothing is there) is returned.
func (c *call) refused(form string, err error) error {
	switch problem(err).Status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusConflict, http.StatusForbidden:
		c.keep(form, err)
		return nil
	}
	return err
}

// refusedName is refused for a form in which a name is typed: one that nobody has is a slip
// like any other.
func (c *call) refusedName(form string, err error) error {
	if problem(err).Status == http.StatusNotFound {
		c.keep(form, err)
		return nil
	}
	return c.refused(form, err)
}

// keep keeps what was typed into a form, and what was wrong with it.
func (c *call) keep(form string, err error) {
	c.typed = typed{Form: form, Values: c.PostForm, Err: problem(err)}
}

// problem is any error as the page shows it.
func problem(err error) *control.Error {
	var e *control.Error
	if errors.As(err, &e) {
		said := *e
		said.Hint = onPage(e.Hint)
		return &said
	}
	return &control.Error{Status: http.StatusInternalServerError, Message: "the page could not be made", Hint: "the daemon's log has the details"}
}

// fail shows what went wrong instead of a page.
func (c *call) fail(err error) {
	e := problem(err)
	if e.Status == 0 {
		e.Status = http.StatusInternalServerError
	}
	if e.Status == http.StatusInternalServerError {
		c.p.log.Error("a page could not be made", "path", c.URL.Path, "err", err)
	}
	title := map[int]string{http.StatusNotFound: "Not found", http.StatusForbidden: "Not allowed", http.StatusServiceUnavailable: "Not available now"}[e.Status]
	if title == "" {
		title = "That did not work"
	}
	if c.URL.Query().Get("part") == "1" { // the script keeps what it has
		http.Error(c.w, title, e.Status)
		return
	}
	if err := c.write(e.Status, "error", &view{c: c, Title: title, Body: e}); err != nil {
		c.p.log.Error("the page of an error could not be made", "err", err)
		http.Error(c.w, title, e.Status)
	}
}
