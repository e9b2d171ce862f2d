package webfront

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"osm/internal/control"
)

// passedOn are the headers of the browser's that the daemon is to see.
func passedOn() []string {
	return []string{"Origin", "Sec-Fetch-Site", "Content-Type", "Accept", "Accept-Language"}
}

// keptBack are headers of the daemon's answer that concern the connection to it, or are
// the front's to set.
func keptBack() []string {
	return []string{"Connection", "Keep-Alive", "Proxy-Authenticate", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Set-Cookie"}
}

// forward lets the daemon answer a request, for whom has logged in.
func (f *Front) forward(w http.ResponseWriter, r *http.Request, who session) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodPost {
		w.Header().Set("Allow", "GET, HEAD, POST")
		f.say(w, r, http.StatusMethodNotAllowed, message{Title: "Not a way to use this page", Text: "It is asked with GET and changed with POST."})
		return
	}
	// All of it is taken first, so that a slow browser holds none of the daemon's places.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		f.unread(w, r, err)
		return
	}
	out, err := http.NewRequestWithContext(r.Context(), r.Method, "http://osmd/", bytes.NewReader(body))
	if err != nil {
		f.say(w, r, http.StatusBadRequest, message{Title: "Not understood", Text: err.Error()})
		return
	}
	out.URL = f.target(r)
	out.Header = f.headers(r, who)
	answer, err := f.daemon.RoundTrip(out)
	if err != nil {
		f.away(w, r, err)
		return
	}
	defer answer.Body.Close()
	for _, name := range keptBack() {
		answer.Header.Del(name)
	}
	maps.Copy(w.Header(), answer.Header)
	w.WriteHeader(answer.StatusCode)
	_, _ = io.Copy(w, answer.Body) // the browser, or the daemon, may have gone
}

// target is where the daemon has a page.
func (f *Front) target(r *http.Request) *url.URL {
	return &url.URL{
		Scheme: "http", Host: "osmd", RawQuery: r.URL.RawQuery,
		Path: "/web" + f.withoutBase(r.URL.Path), RawPath: "/web" + f.withoutBase(r.URL.EscapedPath()),
	}
}

// headers are what the daemon is told. Everything of the browser's but a few headers stays
// here, so that nothing it asserts gets through.
func (f *Front) headers(r *http.Request, who session) http.Header {
	h := http.Header{}
	for _, name := range passedOn() {
		if v := r.Header.Get(name); v != "" {
			h.Set(name, v)
		}
	}
	if f.o.Asserts {
		h.Set("X-OSM-User", who.User)
		h.Set("X-OSM-Role", string(who.Role))
		if who.Reseller != "" {
			h.Set("X-OSM-Reseller", who.Reseller)
		}
	}
	h.Set("X-OSM-Session", who.Name)
	h.Set("X-OSM-Base", f.base())
	h.Set("X-OSM-Links", "path")
	h.Set("X-OSM-Origin", f.origin(r))
	return h
}

func (f *Front) unread(w http.ResponseWriter, r *http.Request, err error) {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		f.say(w, r, http.StatusRequestEntityTooLarge, message{Title: "Too large", Text: fmt.Sprintf("A form may hold %d bytes.", tooLarge.Limit)})
		return
	}
	f.say(w, r, http.StatusBadRequest, message{Title: "Not understood", Text: "The form did not arrive in full."})
}

// away says why the daemon could not be asked, and what to do.
func (f *Front) away(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // the browser has gone
	}
	f.o.Log.Warn("the daemon cannot be asked", "socket", f.o.Socket, "err", err)
	m := message{
		Title: "osmd does not answer",
		Text:  "The page is made by the daemon, and the daemon cannot be asked at present. Mail goes on meanwhile: Exim accepts it unchecked.",
		Do:    []string{"systemctl status osmd", "journalctl -u osmd"},
	}
	var dial *net.OpError
	var refused *control.Error
	switch {
	case errors.As(err, &refused): // the client's words, which say the same
		m.Text = upper(refused.Message) + ". Mail goes on meanwhile: Exim accepts it unchecked."
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		m.Title = "osmd is not running"
		m.Do = []string{"systemctl start osmd", "journalctl -u osmd"}
	case errors.Is(err, fs.ErrPermission):
		m.Title = "The daemon may not be asked"
		m.Text = fmt.Sprintf("osmctl web runs as %s, who is neither root nor a member of osm-admin.", f.o.Self)
		m.Do = nil
	case !errors.As(err, &dial) || dial.Op != "dial":
		m.Text = "The daemon ended the connection before it had answered. If it was being restarted, try again."
	}
	m.Again = true
	w.Header().Set("Retry-After", "5")
	f.say(w, r, http.StatusServiceUnavailable, m)
}

// upper begins a sentence.
func upper(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
