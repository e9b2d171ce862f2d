package evidence

import (
	"path"
	"strings"

	"osm/policy"
)

// handler is how the web server ran the script that called sendmail.
type handler uint8

const (
	noHandler handler = iota // no web server is known to be above
	module                   // within a process of the web server
	cgi                      // in a process of its own
	fpm                      // in a worker of php-fpm
)

// caller is what a chain of processes tells about the request behind a message.
type caller struct {
	handler handler
	worker  *policy.Process // the web server's process, or the pool's
	child   *policy.Process // what the worker started for the message; nil: it sent it itself
	program *policy.Process // of CGI: the process of the request, a child of the worker
	pool    string          // of php-fpm
}

// readChain looks for the first process of a web server or of php-fpm above sendmail.
// That it is one rests on its parent, or itself, being root's and running the same file:
// anybody can call his program apache2, and nobody can start it as root.
func readChain(chain []policy.Process) caller {
	for i := range chain {
		p := &chain[i]
		pool := poolOf(p)
		if pool == "" && !webServer(p) || !rootsOwn(chain, i) {
			continue
		}
		c := caller{worker: p, pool: pool, handler: module}
		if i > 0 {
			c.child = &chain[i-1]
		}
		switch {
		case pool != "":
			c.handler = fpm
		case i > 1 && servesRequest(c.child) && !commandShell(c.child):
			c.handler, c.program = cgi, c.child
		}
		return c
	}
	return caller{}
}

func rootsOwn(chain []policy.Process, i int) bool {
	if chain[i].UID == 0 {
		return true
	}
	return i+1 < len(chain) && chain[i+1].UID == 0 && chain[i+1].Executable == chain[i].Executable
}

func program(p *policy.Process) string { return path.Base(p.Executable) }

// poolOf is the pool that a worker of php-fpm names in its title, "" for any other process.
func poolOf(p *policy.Process) string {
	if !strings.HasPrefix(program(p), "php-fpm") || len(p.Args) == 0 {
		return ""
	}
	pool, ok := strings.CutPrefix(p.Args[0], "php-fpm: pool ")
	if !ok {
		return ""
	}
	return strings.TrimRight(pool, " ")
}

func webServer(p *policy.Process) bool {
	switch program(p) {
	case "apache2", "httpd":
		return true
	}
	return false
}

// servesRequest reports whether a process was started with the environment of a request.
func servesRequest(p *policy.Process) bool { return p.RemoteAddr != "" && p.RequestURI != "" }

// commandShell reports whether a process is the shell that runs one command, as popen()
// makes it: its environment is what the script behind it put there. A CGI program that is a
// shell script has its file as argument. Where the arguments could not be read it is taken
// for the former.
func commandShell(p *policy.Process) bool {
	switch program(p) {
	case "sh", "dash", "bash", "ksh", "zsh", "ash", "busybox":
		return len(p.Args) < 2 || strings.HasPrefix(p.Args[1], "-c")
	}
	return false
}
