package evidence

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"osm/internal/evidence"
	"osm/tests/lab"
)

const (
	site    = "127.0.0.1:8080" // Apache, in a network namespace of our own
	webRoot = "/var/www"       // where Debian's suEXEC allows programs
)

// apacheConf is a small whole configuration; what differs between the tests follows it.
const apacheConf = `
ServerRoot %[1]s
ServerName localhost
PidFile %[1]s/apache.pid
DefaultRuntimeDir %[1]s
Mutex file:%[1]s default
ErrorLog %[1]s/error.log
Timeout 300
LogLevel warn
Listen %[2]s
User www-data
Group www-data
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule authz_host_module /usr/lib/apache2/modules/mod_authz_host.so
LoadModule alias_module /usr/lib/apache2/modules/mod_alias.so
LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so
LoadModule env_module /usr/lib/apache2/modules/mod_env.so
LoadModule mime_module /usr/lib/apache2/modules/mod_mime.so
LoadModule status_module /usr/lib/apache2/modules/mod_status.so
LoadModule rewrite_module /usr/lib/apache2/modules/mod_rewrite.so
TypesConfig /etc/mime.types
StartServers 12
MaxRequestWorkers 30
<Directory />
	Require all granted
	AllowOverride All
</Directory>
<Location /server-status>
	SetHandler server-status
	Require local
</Location>
`

// phpIni is what mail() needs, for the ways of PHP that have a file of their own.
const phpIni = `
sendmail_path = /usr/sbin/sendmail -t -i
mail.add_x_header = On
cgi.force_redirect = 0
`

// server is one way to run PHP below Apache.
type server struct {
	dir, root string // of the configuration, of the pages
	pools     []evidence.Pool
	program   bool // pages are started as programs
}

// shebang makes a page one that runs as a program where that is the server's way.
func (s *server) shebang(page string) string {
	if s.program {
		return "#!/usr/bin/php-cgi -c" + s.dir + "/php.ini\n" + page
	}
	return page
}

// newServer makes the folders; the pages belong to the account.
func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{dir: filepath.Join(machine.Dir, fmt.Sprint("web-", time.Now().UnixNano()))}
	www, logs := filepath.Join(s.dir, "www"), filepath.Join(s.dir, "apachelogs")
	for _, d := range []string{s.dir, www, logs} {
		must(t, os.Mkdir(d, 0o755))
	}
	must(t, os.MkdirAll(webRoot, 0o755))
	mount(t, www, webRoot)
	mount(t, logs, "/var/log/apache2")
	s.root = filepath.Join(webRoot, account)
	s.mkdir(t, s.root)
	must(t, os.WriteFile(s.dir+"/php.ini", []byte(phpIni), 0o644))
	return s
}

func mount(t *testing.T, from, to string) {
	t.Helper()
	must(t, syscall.Mount(from, to, "", syscall.MS_BIND, ""))
	t.Cleanup(func() {
		if err := syscall.Unmount(to, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *server) mkdir(t *testing.T, dir string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.Chown(dir, machine.UID(account), machine.UID(account)))
}

// page writes a page of the account's and returns its path.
func (s *server) page(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(s.root, name)
	s.mkdir(t, filepath.Dir(path))
	must(t, os.WriteFile(path, []byte(text), 0o755))
	must(t, os.Chown(path, machine.UID(account), machine.UID(account)))
	return path
}

// startApache starts it in the foreground and ends it with the test.
func (s *server) startApache(t *testing.T, more string) {
	t.Helper()
	conf := filepath.Join(s.dir, "apache.conf")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, apacheConf+more, s.dir, site, s.root), 0o644))
	cmd := exec.Command("/usr/sbin/apache2", "-f", conf, "-DFOREGROUND")
	start(t, cmd, filepath.Join(s.dir, "error.log"))
	answers(t, "tcp", site)
}

// startFPM starts php-fpm with one pool of the account's.
func (s *server) startFPM(t *testing.T, pool string) (socket string) {
	t.Helper()
	programs, err := filepath.Glob("/usr/sbin/php-fpm[0-9]*")
	if err != nil || len(programs) == 0 {
		t.Fatal("there is no php-fpm (package php-fpm)")
	}
	socket = filepath.Join(s.dir, "fpm.sock")
	conf := filepath.Join(s.dir, "fpm.conf")
	text := fmt.Sprintf("[global]\nerror_log = %s/fpm.log\ndaemonize = no\n%s", s.dir, pool)
	must(t, os.WriteFile(conf, []byte(text), 0o644))
	cmd := exec.Command(programs[len(programs)-1], "--nodaemonize", "--fpm-config", conf, "-c", s.dir+"/php.ini")
	start(t, cmd, s.dir+"/fpm.log")
	answers(t, "unix", socket)
	return socket
}

// start runs a server; the end of the test ends it, and shows its log if the test failed.
func start(t *testing.T, cmd *exec.Cmd, log string) {
	t.Helper()
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	// Apache ends its whole process group, which must not be ours.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		err := cmd.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(log)
			t.Logf("%s: %v\n%s\n%s", cmd.Path, err, &out, text)
		}
	})
}

func answers(t *testing.T, network, address string) {
	t.Helper()
	must(t, lab.WaitFor(30*time.Second, address, func() error {
		c, err := net.Dial(network, address)
		if err != nil {
			return err
		}
		return errors.Join(nil, c.Close())
	}))
}

const prefork = "LoadModule mpm_prefork_module /usr/lib/apache2/modules/mod_mpm_prefork.so\n"
const event = "LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so\nThreadsPerChild 10\n"

// modPHP runs PHP within Apache's processes, as www-data.
func modPHP(t *testing.T) *server { return modPHPWith(t, "ExtendedStatus On\n") }

func modPHPWith(t *testing.T, more string) *server {
	t.Helper()
	s := newServer(t)
	modules, err := filepath.Glob("/usr/lib/apache2/modules/libphp*.so")
	if err != nil || len(modules) == 0 {
		t.Fatal("there is no mod_php (package libapache2-mod-php)")
	}
	s.startApache(t, prefork+"LoadModule php_module "+modules[0]+`
DocumentRoot %[3]s
AddHandler application/x-httpd-php .php
php_admin_value sendmail_path "/usr/sbin/sendmail -t -i"
php_admin_value mail.add_x_header 1
`+more)
	return s
}

// suexecPHP runs php-cgi by an Action, as panels do, and suEXEC.
func suexecPHP(t *testing.T) *server {
	t.Helper()
	s := newServer(t)
	s.page(t, "cgi-bin/php", "#!/bin/sh\nexec /usr/bin/php-cgi -c "+s.dir+"/php.ini\n")
	s.startApache(t, prefork+fmt.Sprintf(`
LoadModule cgi_module /usr/lib/apache2/modules/mod_cgi.so
LoadModule suexec_module /usr/lib/apache2/modules/mod_suexec.so
LoadModule actions_module /usr/lib/apache2/modules/mod_actions.so
DocumentRoot %%[3]s
ExtendedStatus On
SuexecUserGroup #%[1]d #%[1]d
ScriptAlias /cgi-bin/ %%[3]s/cgi-bin/
Action php-script /cgi-bin/php
AddHandler php-script .php
`, machine.UID(account)))
	return s
}

// threadedCGI runs the page itself as a program, below threads that share one process.
func threadedCGI(t *testing.T) *server {
	t.Helper()
	s := newServer(t)
	s.program = true
	s.startApache(t, event+fmt.Sprintf(`
LoadModule cgid_module /usr/lib/apache2/modules/mod_cgid.so
LoadModule suexec_module /usr/lib/apache2/modules/mod_suexec.so
ScriptSock %%[1]s/cgid.sock
DocumentRoot %%[3]s
ExtendedStatus On
SuexecUserGroup #%[1]d #%[1]d
AddHandler cgi-script .php
<Directory %%[3]s>
	Options ExecCGI
</Directory>
`, machine.UID(account)))
	return s
}

// fpmPool is the account's pool, with the status page where the requests come in.
const fpmPool = `
[shop]
user = shop
group = shop
listen = %[1]s/fpm.sock
listen.owner = www-data
listen.mode = 0600
pm = static
pm.max_children = 16
pm.status_path = /fpm-status
php_admin_value[sendmail_path] = /usr/sbin/sendmail -t -i
php_admin_flag[mail.add_x_header] = on
`

// waitForWorkers waits for all of a pool's processes: its socket is there before they are, and
// whoever asks has little time.
func waitForWorkers(t *testing.T, p evidence.Pool, n int) {
	t.Helper()
	must(t, lab.WaitFor(30*time.Second, "all of the pool's processes", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		page, err := evidence.AskPool(ctx, p)
		if err == nil && !bytes.Contains(page, fmt.Appendf(nil, `"total processes":%d,`, n)) {
			err = fmt.Errorf("it says %.300s", page)
		}
		return err
	}))
}

// fpmPHP runs a pool of php-fpm behind threads of Apache's.
func fpmPHP(t *testing.T) *server {
	t.Helper()
	s := newServer(t)
	socket := s.startFPM(t, fmt.Sprintf(fpmPool, s.dir))
	s.pools = []evidence.Pool{{Name: account, Address: socket, StatusPath: "/fpm-status"}}
	waitForWorkers(t, s.pools[0], 16)
	s.startApache(t, event+fcgiTo(socket))
	return s
}

func fcgiTo(socket string) string {
	return `
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_fcgi_module /usr/lib/apache2/modules/mod_proxy_fcgi.so
DocumentRoot %[3]s
ExtendedStatus On
<FilesMatch \.php$>
	SetHandler "proxy:unix:` + socket + `|fcgi://localhost/"
</FilesMatch>
`
}
