package webfront

import (
	"bytes"
	"net/http"
	"strconv"
)

// message is one of the front's own small pages.
type message struct {
	Title, Text string
	Do          []string // commands to be typed
	Token       string   // of a link: a button uses it
	Again       bool     // a button asks again
	Follow      bool     // the browser is to ask again by itself
	// Where the page's files are.
	Base, Style string
}

// say writes a page of the front's.
func (f *Front) say(w http.ResponseWriter, r *http.Request, status int, m message) {
	m.Base, m.Style = f.base(), f.base()+f.stylesAt
	m.Again = m.Again && (r.Method == http.MethodGet || r.Method == http.MethodHead)
	var b bytes.Buffer
	if err := f.pages.ExecuteTemplate(&b, "page.html", m); err != nil {
		f.o.Log.Error("a page of the front could not be made", "err", err)
		http.Error(w, m.Title, status)
		return
	}
	f.secureHeaders(w)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the browser may have gone
}

// secureHeaders keep a page from being framed, read or run by others.
func (f *Front) secureHeaders(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}

func (f *Front) serveStyle(w http.ResponseWriter, r *http.Request) {
	f.secureHeaders(w)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(f.style)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(f.style) // the browser may have gone
	}
}

func (f *Front) missing(w http.ResponseWriter, r *http.Request) {
	f.say(w, r, http.StatusNotFound, message{Title: "There is no such page", Text: "Begin at the first page."})
}

// askForLogin says how to get in. A browser that follows a link on another site sends no
// cookie at first (SameSite): it is told to ask again, from here.
func (f *Front) askForLogin(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Sec-Fetch-Site") == "cross-site" && r.Method == http.MethodGet {
		f.say(w, r, http.StatusOK, message{Title: "One moment", Text: "Opening the page.", Follow: true})
		return
	}
	m := message{
		Title: "Not logged in",
		Text:  "A link made on the server lets you in. Type there, as root or as a member of the group osm-admin:",
		Do:    []string{"osmctl web link"},
	}
	status := http.StatusForbidden
	if r.URL.Query().Has("out") {
		m.Title, m.Text = "Logged out", "To come back, make another link on the server:"
		status = http.StatusOK
	}
	f.say(w, r, status, m)
}
