package cpanel

import (
	"net/http"
	"net/http/cgi"
	"strings"
)

// Entry is where WHM serves the page, behind the token of the login.
const Entry = "/cgi/osm/index.cgi"

// WHM is cpsrvd's part in the page: somebody has logged in, and a request for the CGI runs
// it as root in an environment of its own.
type WHM struct {
	User  string // who has logged in: REMOTE_USER
	Token string // of the login, "/cpsess" and digits; "" where tokens are switched off
	// Program is the CGI and what stands before it, such as the way into a box.
	Program []string
	Env     []string // NAME=value, besides what a CGI is given
	Port    string   // SERVER_PORT; "" = 2087
}

// ServeHTTP answers what a browser asks of WHM: the CGI below the token, and nothing else.
func (w *WHM) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.Path, w.Token)
	if !ok || path != Entry {
		http.NotFound(rw, r)
		return
	}
	port := w.Port
	if port == "" {
		port = "2087"
	}
	h := cgi.Handler{
		Path: w.Program[0], Args: w.Program[1:], Root: w.Token + Entry, Dir: "/",
		Env: append([]string{"REMOTE_USER=" + w.User, "cp_security_token=" + w.Token, "PATH=/usr/bin:/bin", "SERVER_PORT=" + port}, w.Env...),
	}
	h.ServeHTTP(rw, r)
}
