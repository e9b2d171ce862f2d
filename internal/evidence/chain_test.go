package evidence

import (
	"testing"

	"osm/policy"
)

// proc is a process in words: pid, uid, file and title or arguments.
func proc(pid int32, uid uint32, file string, args ...string) policy.Process {
	return policy.Process{PID: pid, UID: uid, Executable: file, Args: args, Started: 1000 + int64(pid)}
}

// ofRequest adds the environment of a request.
func ofRequest(p policy.Process) policy.Process {
	p.RemoteAddr, p.RequestURI, p.ScriptFilename = "192.0.2.1", "/a.php", "/home/shop/a.php"
	return p
}

func TestWhatAChainTells(t *testing.T) {
	exim := ofRequest(proc(9, 20001, "/usr/sbin/exim4"))
	shell := ofRequest(proc(8, 20001, "/usr/bin/dash", "sh", "-c", "/usr/sbin/sendmail -t -i"))
	pool := proc(7, 20001, "/usr/sbin/php-fpm8.2", "php-fpm: pool shop", "")
	master := proc(1, 0, "/usr/sbin/php-fpm8.2", "php-fpm: master process (/etc/x.conf)")
	php := ofRequest(proc(7, 20001, "/usr/bin/php-cgi8.2", "/usr/bin/php-cgi"))
	perl := ofRequest(proc(7, 20001, "/usr/bin/perl", "perl", "a.cgi"))
	script := ofRequest(proc(7, 20001, "/usr/bin/dash", "/bin/sh", "/home/shop/a.cgi"))
	apache := proc(6, 33, "/usr/sbin/apache2", "/usr/sbin/apache2", "-k", "start")
	root := proc(1, 0, "/usr/sbin/apache2", "/usr/sbin/apache2", "-k", "start")
	mine := proc(6, 20001, "/home/shop/apache2", "/usr/sbin/apache2")
	bash := proc(2, 20001, "/usr/bin/bash", "bash")
	fake := proc(7, 20001, "/usr/bin/perl", "php-fpm: pool shop")
	for _, c := range []struct {
		name           string
		chain          []policy.Process
		want           handler
		worker, child  int32
		program        int32
		poolOfTheChain string
	}{
		{"nothing", nil, noHandler, 0, 0, 0, ""},
		{"a login shell", []policy.Process{exim, bash}, noHandler, 0, 0, 0, ""},
		{"php-fpm", []policy.Process{exim, shell, pool, master}, fpm, 7, 8, 0, "shop"},
		{"php-fpm by SMTP", []policy.Process{pool, master}, fpm, 7, 0, 0, "shop"},
		{"a user's own program with that title", []policy.Process{exim, fake, bash}, noHandler, 0, 0, 0, ""},
		{"a user's own php-fpm", []policy.Process{exim, pool, bash}, noHandler, 0, 0, 0, ""},
		{"mod_php, whose shell has what the script put into its environment", []policy.Process{exim, shell, apache, root}, module, 6, 8, 0, ""},
		{"mod_php without a shell", []policy.Process{exim, apache, root}, module, 6, 9, 0, ""},
		{"CGI with PHP", []policy.Process{exim, shell, php, apache, root}, cgi, 6, 7, 7, ""},
		{"CGI with Perl, which needs no shell", []policy.Process{exim, perl, apache, root}, cgi, 6, 7, 7, ""},
		{"CGI with a shell script", []policy.Process{exim, script, apache, root}, cgi, 6, 7, 7, ""},
		{"a user's own Apache", []policy.Process{exim, perl, mine, bash}, noHandler, 0, 0, 0, ""},
		{"a user's Apache with root's beyond the chain", []policy.Process{exim, perl, apache}, noHandler, 0, 0, 0, ""},
	} {
		got := readChain(c.chain)
		if got.handler != c.want || pidOf(got.worker) != c.worker || pidOf(got.child) != c.child || pidOf(got.program) != c.program || got.pool != c.poolOfTheChain {
			t.Errorf("%s: handler %d, worker %d, child %d, program %d, pool %q", c.name, got.handler, pidOf(got.worker), pidOf(got.child), pidOf(got.program), got.pool)
		}
	}
}

func pidOf(p *policy.Process) int32 {
	if p == nil {
		return 0
	}
	return p.PID
}
