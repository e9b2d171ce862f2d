package whm

import (
	"crypto/rand"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"path"
	"strings"
	"time"

	"osm/internal/control"
	"osm/policy"
)

// Options are what the pages are made of.
type Options struct {
	Service *control.Service
	Log     *slog.Logger
	Clock   func() policy.Moment
	Zone    *time.Location // of times where the browser does not know its own; nil = the server's
}

// pages answers what is asked for below /web/.
type pages struct {
	service   *control.Service
	log       *slog.Logger
	clock     func() policy.Moment
	zone      *time.Location
	secret    [32]byte // of the tokens; a new one with each process
	static    map[string]asset
	templates map[string]*template.Template
	notes     notes
	mux       *http.ServeMux
}

// New returns the handler of everything below /web/. Requests must have their actor in the
// context, as [control.Handler] sees to.
func New(o Options) (http.Handler, error) {
	if o.Service == nil || o.Log == nil || o.Clock == nil {
		return nil, errors.New("page options: Service, Log and Clock must be set")
	}
	if o.Zone == nil {
		o.Zone = time.Local
	}
	p := &pages{service: o.Service, log: o.Log.With("component", "page"), clock: o.Clock, zone: o.Zone, mux: http.NewServeMux()}
	if _, err := rand.Read(p.secret[:]); err != nil {
		return nil, fmt.Errorf("make a secret for the page: %w", err)
	}
	var err error
	if p.static, err = loadStatic(); err != nil {
		return nil, err
	}
	if p.templates, err = loadTemplates(p.functions()); err != nil {
		return nil, err
	}
	p.routes()
	return p, nil
}

// routes are the pages by method and path. What follows from a POST is always another
// page, so that reloading repeats nothing.
func (p *pages) routes() {
	p.get("{$}", (*call).nowPage)
	p.get("now", (*call).nowPage)
	p.get("senders", (*call).sendersPage)
	p.get("senders/{account}", (*call).accountPage)
	p.get("messages", (*call).messagesPage)
	p.get("connections", (*call).connectionsPage)
	p.get("events", (*call).eventsPage)
	p.get("events/{id}", (*call).eventPage)
	p.get("explain", (*call).explainPage)
	p.get("held", (*call).heldPage)
	p.get("held/{ref}", (*call).heldMessagePage)
	p.post("held/confirm", (*call).confirmSettle)
	p.post("held/settle", (*call).settle)
	p.get("limits", (*call).limitsPage)
	p.get("limits/edit", (*call).limitForm)
	p.post("limits/edit", (*call).saveLimit)
	p.get("limits/{id}/remove", (*call).limitRemoval)
	p.post("limits/{id}/remove", (*call).removeLimit)
	p.get("reset", (*call).resetForm)
	p.post("reset", (*call).reset)
	p.get("exemptions", (*call).exemptionsPage)
	p.get("exemptions/new", (*call).exemptionForm)
	p.post("exemptions/new", (*call).addExemption)
	p.get("exemptions/{id}/remove", (*call).exemptionRemoval)
	p.post("exemptions/{id}/remove", (*call).removeExemption)
	p.get("holds/new", (*call).holdForm)
	p.post("holds/new", (*call).putHold)
	p.get("holds/{id}/end", (*call).holdEnding)
	p.post("holds/{id}/end", (*call).endHold)
	p.get("actions", (*call).actionsPage)
	p.get("actions/{id}/undo", (*call).undoActionForm)
	p.post("actions/{id}/undo", (*call).undoAction)
	p.get("audit", (*call).auditPage)
	p.post("audit/{id}/undo", (*call).undo)
	p.settingsRoutes()
	p.get("help", (*call).helpPage)
	p.mux.HandleFunc("GET /web/static/{name}", p.serveStatic)
	p.mux.HandleFunc("/web/", p.handled((*call).nothingHere))
}

func (p *pages) settingsRoutes() {
	p.get("settings", (*call).settingsPage)
	p.post("settings", (*call).changeSetting)
	p.get("settings/doctor", (*call).doctorPage)
	p.get("settings/config", (*call).configPage)
	p.get("settings/export", (*call).exportConfig)
	p.get("settings/check", (*call).checkPage)
	p.post("settings/check", (*call).checkConfig)
	p.post("settings/reload", (*call).reloadConfig)
	p.post("settings/backup", (*call).backup)
}

func (p *pages) get(page string, f func(*call) error) {
	p.mux.HandleFunc("GET /web/"+page, p.handled(f))
}

// post serves a change. Whether the request comes from our own form is looked at before
// anything else.
func (p *pages) post(page string, f func(*call) error) {
	p.mux.HandleFunc("POST /web/"+page, p.handled(func(c *call) error {
		if err := c.ownForm(); err != nil {
			return err
		}
		return f(c)
	}))
}

// ServeHTTP answers one request.
func (p *pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	secure(w.Header(), frontOf(r.Header))
	if clean := path.Clean(r.URL.Path); clean != strings.TrimSuffix(r.URL.Path, "/") {
		// The mux would redirect to where the path leads, which is no address of the front's.
		p.handled((*call).nothingHere)(w, r)
		return
	}
	p.mux.ServeHTTP(w, r)
}

// handled wraps a page: who asks, and what is shown when it fails.
func (p *pages) handled(f func(*call) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c := &call{Request: r, w: w, p: p, front: frontOf(r.Header), now: p.clock().Wall}
		var ok bool
		if c.actor, ok = control.ActorOf(r.Context()); !ok {
			c.fail(refusal(http.StatusForbidden, "log in first", "nobody is logged in"))
			return
		}
		if err := f(c); err != nil {
			c.fail(err)
		}
	}
}

// nothingHere answers what no page answers.
func (c *call) nothingHere() error {
	if c.Method != http.MethodGet && c.Method != http.MethodHead {
		c.w.Header().Set("Allow", "GET, HEAD")
		return refusal(http.StatusMethodNotAllowed, "", "this page cannot be asked for in that way")
	}
	return refusal(http.StatusNotFound, "", "there is no such page")
}
