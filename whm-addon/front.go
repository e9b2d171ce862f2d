package whm

import (
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
)

// front is what the program that forwarded a request says of itself: where the links lead
// and to which login the request belongs.
type front struct {
	base    string // "" or "/osm"; "index.cgi" in query form
	query   bool   // links are base?p=PAGE&…
	framed  bool   // shown inside WHM
	origin  string // what the browser must name as Origin
	session string
}

// frontOf reads the headers of the front. A base that is none would let links lead to
// another host, so it counts as none.
func frontOf(h http.Header) front {
	f := front{query: h.Get("X-OSM-Links") == "query", framed: h.Get("X-OSM-Frame") == "1", origin: h.Get("X-OSM-Origin"), session: h.Get("X-OSM-Session")}
	base := strings.TrimSuffix(h.Get("X-OSM-Base"), "/")
	switch {
	case f.query && queryBase.MatchString(base):
		f.base = base
	case f.query:
		f.base = "index.cgi"
	case pathBase.MatchString(base):
		f.base = base
	}
	return f
}

// to is the address of a page: an escaped path below /web/, maybe with a query. pairs are
// names and values of the query; where a value is empty the pair is left out. The name "#"
// is the place within the page.
func (f front) to(page string, pairs ...string) string {
	page, query, _ := strings.Cut(strings.TrimLeft(page, `/\`), "?")
	parts, place := []string{}, ""
	if query != "" {
		parts = append(parts, query)
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		switch name, value := pairs[i], pairs[i+1]; {
		case value == "":
		case name == "#":
			place = "#" + url.PathEscape(value)
		default:
			parts = append(parts, url.QueryEscape(name)+"="+url.QueryEscape(value))
		}
	}
	address := f.base + "/" + page
	if f.query {
		address = f.base
		parts = append([]string{"p=" + strings.ReplaceAll(url.QueryEscape(page), "%2F", "/")}, parts...)
	}
	if len(parts) > 0 {
		address += "?" + strings.Join(parts, "&")
	}
	return address + place
}

// action is where a form that asks for a page leads, without what the form itself names: in
// query form the page is a hidden input of it.
func (f front) action(page string) (address, hidden string) {
	if f.query {
		return f.base, page
	}
	return f.base + "/" + page, ""
}

// pagePath joins the parts of a page's path, each escaped.
func pagePath(parts ...string) string {
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/")
}

// here is the page that was asked for, for a form to lead back to.
func (c *call) here() string {
	page := strings.TrimPrefix(c.URL.EscapedPath(), "/web/")
	q := c.URL.Query()
	q.Del("part")
	if len(q) > 0 {
		page += "?" + q.Encode()
	}
	return page
}

// back is the page that a form names to come back to.
func (c *call) back(otherwise string) string { return ownPage(c.PostForm.Get("back"), otherwise) }

// ownPage is a page that an address or a form names, or another one when what it names is
// no page of ours: both can be made by anybody who lures a person to follow or send them.
func ownPage(page, otherwise string) string {
	u, err := url.Parse(page)
	if err != nil || len(page) > 4096 || u.IsAbs() || u.Host != "" || !backPath.MatchString(u.EscapedPath()) || path.Clean(u.Path) != u.Path {
		return otherwise
	}
	page = u.EscapedPath()
	if q := u.Query(); len(q) > 0 {
		page += "?" + q.Encode()
	}
	return page
}

// What a base, and a page to come back to, may look like.
var (
	queryBase = regexp.MustCompile(`^[A-Za-z0-9_.~-]+$`)
	pathBase  = regexp.MustCompile(`^(/[A-Za-z0-9_.~-]+)*$`)
	backPath  = regexp.MustCompile(`^[a-z]+(/[A-Za-z0-9_.~%!$&'()*+,;=:@-]+)*$`)
)
