package policy

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestCleanDirectory(t *testing.T) {
	for _, tt := range []struct{ name, cwd, want string }{
		{"as it is", "/home/shop/public_html", "/home/shop/public_html"},
		{"none", "", ""},
		{"relative", "home/shop", ""},
		{"outside the mount tree", "(unreachable)/home/shop", ""},
		{"the root", "/", "/"},
		{"slashes and dots", "//home/./shop/../news//", "/home/news"},
		{"above the root", "/../../etc", "/etc"},
		{"a deleted directory", "/home/shop/tmp (deleted)", "/home/shop/tmp"},
		{"a directory named so, and deleted", "/home/shop/tmp (deleted) (deleted)", "/home/shop/tmp"},
		{"blanks stay", "/home/shop/my  files", "/home/shop/my  files"},
		{"umlauts stay", "/home/shop/größe", "/home/shop/größe"},
		{"a newline", "/home/shop/a\naction=accept", `/home/shop/a\x0aaction=accept`},
		{"a NUL", "/home/shop\x00/x", `/home/shop\x00/x`},
		{"bytes that are no UTF-8", "/home/shop/\xff\xfe", `/home/shop/\xff\xfe`},
		{"a change of writing direction", "/home/shop/\u202egnp.php", `/home/shop/\u202egnp.php`},
		{"Exim's own syntax is text", "/home/shop/}${run{x}}", "/home/shop/}${run{x}}"},
		{"over 512 bytes", "/home/shop/" + strings.Repeat("a", 6000), "/home/shop/" + strings.Repeat("a", 501)},
		{"a cut in the middle of a character", "/home/shop/" + strings.Repeat("a", 500) + "ü", "/home/shop/" + strings.Repeat("a", 500)},
		{"a cut before the dots of a name", "/home/shop/" + strings.Repeat("a", 498) + "/..b", "/home/shop"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := CleanDirectory(tt.cwd); got != tt.want {
				t.Errorf("CleanDirectory(%q) = %q, want %q", tt.cwd, got, tt.want)
			}
			checkDirectory(t, tt.cwd)
		})
	}
}

func checkDirectory(t *testing.T, cwd string) {
	t.Helper()
	dir := CleanDirectory(cwd)
	if dir == "" {
		if strings.HasPrefix(cwd, "/") {
			t.Errorf("CleanDirectory(%q) is empty", cwd)
		}
		return
	}
	if dir[0] != '/' || len(dir) > maxPath || !utf8.ValidString(dir) || strings.ContainsFunc(dir, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("CleanDirectory(%q) = %q; want an absolute printable path of at most %d bytes", cwd, dir, maxPath)
	}
	if again := CleanDirectory(dir); again != dir {
		t.Errorf("CleanDirectory(%q) = %q, but cleaning that gives %q", cwd, dir, again)
	}
}

func FuzzCleanDirectory(f *testing.F) {
	for _, s := range []string{"/home/shop", "/a (deleted)/ (deleted)", "//../\xff\n", "/" + strings.Repeat("\u202e/..", 200), "x"} {
		f.Add(s)
	}
	f.Fuzz(checkDirectory)
}

// chain makes the processes above a sendmail that runs as its caller's uid.
func chain(above ...Process) []Process {
	return append([]Process{{PID: 100, Executable: "/usr/sbin/exim4", WorkingDirectory: "/var/spool/exim4", Args: []string{"/usr/sbin/sendmail", "-t", "-i"}}}, above...)
}

func TestBestScript(t *testing.T) {
	sh := Process{PID: 101, Executable: "/usr/bin/dash", Args: []string{"sh", "-c", "/usr/sbin/sendmail -t -i"}}
	php := func(args ...string) Process {
		return Process{PID: 102, Executable: "/usr/bin/php8.2", WorkingDirectory: "/home/shop/cron", Args: append([]string{"php"}, args...)}
	}
	fpm := Process{PID: 102, Executable: "/usr/sbin/php-fpm8.2", WorkingDirectory: "/home/shop/www", Args: []string{"php-fpm: pool shop"}}
	run := func(exe string, args ...string) Process {
		return Process{PID: 101, Executable: exe, WorkingDirectory: "/home/shop", Args: args}
	}
	cgi := Process{
		PID: 102, Executable: "/usr/bin/php-cgi8.2", WorkingDirectory: "/home/shop/www", Args: []string{"php-cgi"}, ScriptFilename: "/home/shop/www/contact.php",
		HTTPHost: "shop.example", RequestURI: "/contact.php?x=\n", RemoteAddr: "203.0.113.9",
	}
	const dir = "/home/shop/www"
	for _, tt := range []struct {
		name   string
		chain  []Process
		header string
		want   string
		basis  string // a part of it
	}{
		{"nothing is known", nil, "", "", ""},
		{"PHP on the command line, behind its shell", chain(sh, php("send.php", "x")), "", "/home/shop/cron/send.php", "arguments of php8.2, process 102"},
		{"PHP with options before the script", chain(sh, php("-q", "-d", "memory_limit=1G", "-dx=y", "/opt/a.php")), "", "/opt/a.php", "arguments"},
		{"PHP with -f", chain(sh, php("-f", "a.php", "--", "b.php")), "", "/home/shop/cron/a.php", "arguments"},
		{"PHP with -f joined", chain(sh, php("-fa.php")), "", "/home/shop/cron/a.php", "arguments"},
		{"PHP with code on the command line", chain(sh, php("-r", "mail('a', 'b', 'c');")), "", "", ""},
		{"PHP reads the code from its input", chain(sh, php("-")), "", "", ""},
		{"Perl opens a pipe without a shell", chain(run("/usr/bin/perl", "perl", "-wT", "-I", "lib", "-MCGI", "/home/shop/cgi-bin/form.pl")), "", "/home/shop/cgi-bin/form.pl", "perl"},
		{"Perl one-liner", chain(run("/usr/bin/perl", "perl", "-we", "print 1")), "", "", ""},
		{"Python module", chain(run("/usr/bin/python3.11", "python3", "-m", "mailer")), "", "", ""},
		{"Python script", chain(run("/usr/bin/python3.11", "python3", "-u", "../shop/mail.py")), "", "/home/shop/mail.py", "python3.11"},
		{"shell script", chain(run("/usr/bin/bash", "/bin/bash", "-e", "./report.sh")), "", "/home/shop/report.sh", "bash"},
		{"a shell's command is no file", chain(run("/usr/bin/bash", "bash", "-lc", "mail x")), "", "", ""},
		{"only one shell is skipped", chain(sh, sh, php("a.php")), "", "", ""},
		{"the executable is not known", chain(Process{PID: 7, Args: []string{"perl", "/x.pl"}}), "", "/x.pl", "perl"},
		{"LiteSpeed's process title", chain(run("/usr/local/bin/lsphp", "lsphp:/home/shop/www/x.php")), "", "/home/shop/www/x.php", "arguments of lsphp"},
		{"LiteSpeed's process title, cut on the left", chain(run("/usr/local/bin/lsphp", "lsphp:ackne/www/x.php")), "", "", ""},
		{"CGI environment", chain(sh, cgi), "1001:forged.php", "/home/shop/www/contact.php", `SCRIPT_FILENAME of process 102, request "shop.example/contact.php?x=\n" from 203.0.113.9`},
		{"CGI environment with a relative file", chain(Process{PID: 9, ScriptFilename: "../a.php"}), "", "/home/shop/a.php", "SCRIPT_FILENAME"},
		{"PHP-FPM with PHP's header", chain(sh, fpm), " 1001:contact.php\n", "/home/shop/www/contact.php", "a claim"},
		{"PHP's header of made-up code", chain(sh, fpm), "1001:a.php(12) : eval()'d code", "/home/shop/www/a.php", "a claim"},
		{"PHP's header cannot leave the directory", chain(sh, fpm), "1001:../../news/www/a.php", "/home/shop/www/a.php", "a claim"},
		{"PHP's header without processes", nil, "33:mail.php", "/home/shop/www/mail.php", "X-PHP-Originating-Script"},
		{"PHP's header is no header", nil, "what is this", "", ""},
		{"cPanel's header", nil, "shop.example/contact.php for 203.0.113.9, 10.0.0.1", "shop.example/contact.php", "X-PHP-Script (a claim), for 203.0.113.9"},
		{"a program of its own", chain(run("/home/shop/bin/blast (deleted)", "./blast")), "1001:forged.php", "/home/shop/bin/blast", "the program"},
		{"cron", chain(sh, Process{PID: 5, Executable: "/usr/sbin/cron"}), "", "/usr/sbin/cron", "the program"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, basis := bestScript(&Submission{PHPScript: tt.header}, &Origin{Chain: tt.chain}, dir)
			if got != tt.want || !strings.Contains(basis, tt.basis) || (got == "") != (basis == "") {
				t.Errorf("bestScript(%+v, %q) = %q, %q; want %q, with %q", tt.chain, tt.header, got, basis, tt.want, tt.basis)
			}
		})
	}
}

func TestBestScriptWithoutADirectory(t *testing.T) {
	got, basis := bestScript(&Submission{PHPScript: "1001:a.php"}, &Origin{}, "")
	if got != "a.php" || basis == "" {
		t.Errorf("bestScript = %q, %q; want the bare name a.php", got, basis)
	}
}
