package policy

import (
	"path"
	"strconv"
	"strings"
)

// maxScriptBasis bounds what is said about a script, in bytes.
const maxScriptBasis = 200

// bestScript looks for the file of the script that submitted a message, from the best
// evidence to the weakest: the arguments of the calling process, the CGI environment,
// PHP's header, the calling program itself. Everything but the last is the sender's to
// choose, so it is a hint for people and never what is billed.
func bestScript(s *Submission, o *Origin, dir string) (script, basis string) {
	caller, depth := callingProcess(o.Chain)
	kind := callerUnknown
	if depth > 0 {
		var arg string
		if arg, kind = scriptArgument(caller); arg != "" {
			if script = absoluteFile(arg, caller.directory(dir)); script != "" {
				return script, bound("arguments of " + quoted(caller.program()) + ", process " + strconv.Itoa(int(caller.PID)))
			}
		}
	}
	for i := range o.Chain {
		p := &o.Chain[i]
		if script = absoluteFile(p.ScriptFilename, p.directory(dir)); script != "" {
			return script, bound("SCRIPT_FILENAME of process " + strconv.Itoa(int(p.PID)) + p.request())
		}
	}
	switch kind {
	case callerUnknown, callerPHP:
		return headerScript(s.PHPScript, dir)
	case callerProgram:
		if script = CleanDirectory(caller.Executable); script != "" {
			did := "called sendmail"
			if s.Direct != nil {
				did = "connected"
			}
			return script, "the program that " + did + ", process " + strconv.Itoa(int(caller.PID))
		}
	}
	return "", ""
}

func bound(basis string) string { return cutText(basis, maxScriptBasis) }

// callingProcess returns the process that called sendmail, and how far up the chain it
// is (0 if there is none). The first of the chain is sendmail itself; one shell is
// skipped, because PHP and many others call it by "sh -c".
func callingProcess(chain []Process) (p *Process, depth int) {
	if len(chain) < 2 {
		return nil, 0
	}
	if p = &chain[1]; len(chain) > 2 && interpreterOf(p.program()) == shell && len(p.Args) > 1 && strings.HasPrefix(p.Args[1], "-c") {
		return &chain[2], 2
	}
	return p, 1
}

// program is the name of the process's executable, or of what it calls itself.
func (p *Process) program() string {
	if p.Executable != "" {
		return path.Base(strings.TrimSuffix(p.Executable, deleted))
	}
	if len(p.Args) > 0 {
		return path.Base(strings.TrimPrefix(p.Args[0], "-"))
	}
	return ""
}

// directory is the process's working directory, or dir if it is not known.
func (p *Process) directory(dir string) string {
	if strings.HasPrefix(p.WorkingDirectory, "/") {
		return p.WorkingDirectory
	}
	return dir
}

// request says in words which request a CGI process serves.
func (p *Process) request() string {
	host := p.HTTPHost
	if host == "" {
		host = p.ServerName
	}
	text := ""
	if host != "" || p.RequestURI != "" {
		text = ", request " + quoted(cutText(host+p.RequestURI, 80))
	}
	if p.RemoteAddr != "" {
		text += " from " + quoted(cutText(p.RemoteAddr, 45))
	}
	return text
}

// callerKind is what the calling process is.
type callerKind uint8

const (
	callerUnknown callerKind = iota
	callerPHP                // PHP or a web server: its arguments may not name the script
	callerScript             // another interpreter
	callerProgram
)

// interpreter says which short options of a script language matter.
type interpreter struct {
	php    bool
	valued string // takes a value, joined or as the next argument
	joined string // takes a value, but only joined
	code   string // the value is code, or a module: there is no file
	file   string // the value is the file
}

// shell is the [interpreter] of all shells.
var shell = &interpreter{valued: "oO", code: "cs"}

// interpreterOf returns what is known of a program of that name (php8.2, perl5.36,
// lsphp …), or nil.
func interpreterOf(program string) *interpreter {
	switch strings.TrimRight(program, "0123456789.") {
	case "php", "php-cli", "php-cgi", "lsphp":
		return &interpreter{php: true, valued: "dczBEtS", code: "rRF", file: "f"}
	case "php-fpm", "apache", "httpd", "nginx", "litespeed", "lshttpd", "openlitespeed", "caddy":
		return &interpreter{php: true}
	case "perl", "cperl":
		return &interpreter{valued: "I", joined: "CDFMmx0il", code: "eE"}
	case "python", "pypy":
		return &interpreter{valued: "WXQ", code: "cm"}
	case "ruby":
		return &interpreter{valued: "ICEr", joined: "FKTWx0i", code: "e"}
	case "node", "nodejs":
		return &interpreter{valued: "rC", code: "ep"}
	case "sh", "dash", "bash", "ksh", "zsh", "ash", "busybox":
		return shell
	}
	return nil
}

// maxArgs is how many arguments of a process are looked at.
const maxArgs = 32

// scriptArgument returns the script file among the arguments of a process, "" if there
// is none.
func scriptArgument(p *Process) (file string, kind callerKind) {
	if len(p.Args) > 0 {
		// LiteSpeed's PHP writes the script into its process title.
		if title, ok := strings.CutPrefix(p.Args[0], "lsphp:"); ok {
			if !strings.HasPrefix(title, "/") {
				title = "" // cut on the left
			}
			return title, callerPHP
		}
	}
	in := interpreterOf(p.program())
	switch {
	case p.program() == "":
		return "", callerUnknown
	case in == nil:
		return "", callerProgram
	case in.php:
		kind = callerPHP
	default:
		kind = callerScript
	}
	if in.php && in.file == "" { // a web server
		return "", kind
	}
	return in.script(p.Args), kind
}

// script returns the first argument that is neither an option nor an option's value.
func (in *interpreter) script(args []string) string {
	for i := 1; i < min(len(args), maxArgs); i++ {
		arg := args[i]
		switch {
		case arg == "" || arg == "-":
			return ""
		case arg == "--":
			return at(args, i+1)
		case strings.HasPrefix(arg, "--"):
			continue
		case arg[0] != '-' && arg[0] != '+':
			return arg
		}
		switch file, next := in.options(arg[1:]); {
		case file != "":
			return file
		case next == nextIsFile:
			return at(args, i+1)
		case next == nextIsValue:
			i++
		case next == noFile:
			return ""
		}
	}
	return ""
}

// What follows a cluster of short options.
type following uint8

const (
	nextIsOpen following = iota // another option, or the file
	nextIsValue
	nextIsFile
	noFile // the program is code on the command line
)

// options reads a cluster of short options such as -wle; file is the one joined to it.
func (in *interpreter) options(cluster string) (file string, next following) {
	for i := range len(cluster) {
		c, rest := cluster[i], cluster[i+1:]
		switch {
		case strings.IndexByte(in.code, c) >= 0:
			return "", noFile
		case strings.IndexByte(in.file, c) >= 0 && rest == "":
			return "", nextIsFile
		case strings.IndexByte(in.file, c) >= 0:
			return rest, nextIsOpen
		case strings.IndexByte(in.joined, c) >= 0:
			return "", nextIsOpen
		case strings.IndexByte(in.valued, c) >= 0 && rest == "":
			return "", nextIsValue
		case strings.IndexByte(in.valued, c) >= 0:
			return "", nextIsOpen
		}
	}
	return "", nextIsOpen
}

func at(args []string, i int) string {
	if i < len(args) {
		return args[i]
	}
	return ""
}

// phpClaim is what one of PHP's headers says of the script.
type phpClaim struct {
	uid  int64  // X-PHP-Originating-Script: "uid:file"; -1 if it is the other header
	file string // its base name
	site string // X-PHP-Script, "host/path for address": host/path
	ip   string
}

// parsePHPHeader reads either header, raw as it was in the message. Both are ordinary
// headers that any sender may write.
func parsePHPHeader(raw string) (c phpClaim, ok bool) {
	raw, _, _ = strings.Cut(strings.TrimSpace(cutText(raw, maxPath)), "\n")
	raw = strings.TrimSpace(raw)
	c.uid = -1
	if site, ip, found := strings.Cut(raw, " for "); found {
		c.site = site
		c.ip, _, _ = strings.Cut(ip, ",")
		return c, strings.Contains(site, "/") && !strings.ContainsAny(site, " \t")
	}
	uid, file, found := strings.Cut(raw, ":")
	n, err := strconv.ParseUint(uid, 10, 32)
	if !found || err != nil {
		return c, false
	}
	// "mailer.php(12) : eval()'d code" is how PHP names code that it made up.
	file, _, _ = strings.Cut(file, "(")
	c.uid, c.file = int64(n), path.Base(strings.TrimSpace(file))
	return c, c.file != "." && c.file != "/" && c.file != ".."
}

// headerScript is the script that PHP's header names, a claim.
func headerScript(raw, dir string) (script, basis string) {
	c, ok := parsePHPHeader(raw)
	switch {
	case !ok:
		return "", ""
	case c.site != "":
		return printable(c.site, maxPath), bound("header X-PHP-Script (a claim), for " + quoted(c.ip))
	case dir == "":
		return printable(c.file, maxPath), "header X-PHP-Originating-Script (a claim)"
	}
	return absoluteFile(c.file, dir), "working directory and header X-PHP-Originating-Script (a claim)"
}
