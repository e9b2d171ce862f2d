package web

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"path/filepath"
	"strings"

	"osm/tests/lab"
)

// The stand-in of WHM: it logs in, it runs the installed CGI as WHM does, with hardly
// anything in its environment, and the CGI finds stand-ins of cPanel's Perl modules. The
// rest is the CGI's own.
const (
	whmAddress = "127.0.0.1:2086"
	whmPath    = "/cgi/osm/index.cgi"
	whmFolder  = "/usr/local/cpanel/whostmgr/docroot/cgi/osm"
)

// whmToken is WHM's security token of a user; it is in every address.
func whmToken(user string) string {
	sum := 0
	for _, c := range user {
		sum = sum*31 + int(c)
	}
	return fmt.Sprintf("/cpsess%010d", sum%10_000_000_000)
}

// whm is the page inside WHM, for a user of WHM.
func whm(user string) door {
	return door{"WHM", func(page string) string {
		path, query, _ := strings.Cut(page, "?")
		address := "http://" + whmAddress + whmToken(user) + whmPath + "?p=" + strings.ReplaceAll(path, "%", "%25")
		if query != "" {
			address += "&" + query
		}
		return address
	}}
}

// whmFrame is what a person opens from WHM's menu.
func whmFrame(user string) string { return "http://" + whmAddress + "/login?user=" + user }

// installWHM lays the stand-in tree and the CGI where cPanel has them, in this namespace.
func installWHM(dir string) error {
	overlay := filepath.Join(dir, "overlay")
	err := errors.Join(lab.Overlay("/usr/local", overlay), lab.Overlay("/var", overlay))
	if err != nil {
		return err
	}
	const tree, cgiSource = "../cpanel/tree", "../../whm-addon/cgi/index.cgi"
	text, err := os.ReadFile(cgiSource)
	if err != nil {
		return err
	}
	return errors.Join(
		os.CopyFS("/usr/local/cpanel", os.DirFS(tree+"/usr/local/cpanel")),
		os.MkdirAll("/usr/local/cpanel/3rdparty/bin", 0o755),
		os.Symlink("/usr/bin/perl", "/usr/local/cpanel/3rdparty/bin/perl"),
		os.MkdirAll(whmFolder, 0o700),
		os.WriteFile(whmFolder+"/index.cgi", text, 0o700),
		os.MkdirAll("/var/cpanel", 0o755),
		os.WriteFile("/var/cpanel/resellers", []byte("bob:create-acct,track-email,list-accts\ncarol:track-email\nmallory:list-accts\n"), 0o644),
	)
}

// startWHM serves WHM's port and returns what ends it.
func startWHM() (func(), error) {
	l, err := net.Listen("tcp", whmAddress)
	if err != nil {
		return nil, err
	}
	s := &http.Server{Handler: http.HandlerFunc(serveWHM)}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	return func() { _ = s.Close(); <-done }, nil
}

func serveWHM(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/login" {
		user := r.URL.Query().Get("user")
		http.SetCookie(w, &http.Cookie{Name: "whostmgrsession", Value: user + "%3aABCDEFGH", Path: "/", HttpOnly: true})
		http.Redirect(w, r, whmToken(user)+whmPath, http.StatusSeeOther)
		return
	}
	cookie, err := r.Cookie("whostmgrsession")
	if err != nil {
		http.Error(w, "WHM (a stand-in): log in", http.StatusUnauthorized)
		return
	}
	user, _, _ := strings.Cut(cookie.Value, "%3a")
	token := whmToken(user)
	if r.URL.Path != token+whmPath {
		http.Error(w, "WHM (a stand-in): the token is not that of this login", http.StatusForbidden)
		return
	}
	h := &cgi.Handler{
		Path: whmFolder + "/index.cgi", Root: token + whmPath, Dir: whmFolder,
		Logger: log.New(io.Discard, "", 0), // a browser that leaves before the answer is there
		Env:    []string{"REMOTE_USER=" + user, "cp_security_token=" + token, "PATH=/usr/bin:/bin", "OSM_CONTROL_SOCKET=" + machine.ControlSocket()},
	}
	h.ServeHTTP(w, r)
}
