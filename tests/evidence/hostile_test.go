package evidence

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"osm/internal/evidence"
	"osm/policy"
)

// oncePage sends one mail, as a form does: the request is over before anybody can look.
const oncePage = `<?php
$truth = "n=1 ip={$_SERVER['REMOTE_ADDR']} uri={$_SERVER['REQUEST_URI']} method={$_SERVER['REQUEST_METHOD']}";
mail("friend@outside.example", $truth, "Hello.\n", "From: shop@shop.example");
echo "sent";
`

// forgingPage writes another visitor and script into everything that it can reach.
const forgingPage = `<?php
foreach (['REMOTE_ADDR=203.0.113.66', 'REQUEST_URI=/innocent.php', 'SCRIPT_FILENAME=/home/blog/innocent.php',
	'SERVER_NAME=blog.example', 'HTTP_HOST=blog.example'] as $lie) putenv($lie);
for ($i = 1; $i <= 10; $i++) {
	$truth = "n=$i ip={$_SERVER['REMOTE_ADDR']} uri={$_SERVER['REQUEST_URI']} method={$_SERVER['REQUEST_METHOD']}";
	mail("friend@outside.example", $truth, "Hello.\n", "From: shop@shop.example\r\nX-PHP-Originating-Script: 0:innocent.php");
}
echo "sent";
`

// leavingPage starts sendmail, in a while, and ends without waiting for it: the same
// process of the server may work for somebody else when Exim asks.
const leavingPage = `<?php
$truth = "n=1 ip={$_SERVER['REMOTE_ADDR']} uri={$_SERVER['REQUEST_URI']} method={$_SERVER['REQUEST_METHOD']}";
$mail = "To: friend@outside.example\nFrom: shop@shop.example\nSubject: $truth\n\nHello.\n";
$wait = rand(1, 40) / 100;
$p = proc_open("sleep $wait; printf %s " . escapeshellarg($mail) . " | /usr/sbin/sendmail -t -i", [['file', '/dev/null', 'r'], ['file', '/dev/null', 'w'], ['file', '/dev/null', 'w']], $pipes);
echo "sent";
`

// innocentPage takes its time and sends nothing.
const innocentPage = `<?php usleep(rand(10, 300) * 1000); echo "sent";`

func TestNobodyIsNamedWrongly(t *testing.T) {
	for _, way := range []struct {
		name  string
		serve func(*testing.T) *server
	}{
		{"mod_php", modPHP}, {"suEXEC", suexecPHP}, {"threads", threadedCGI}, {"php-fpm", fpmPHP},
	} {
		t.Run(way.name, func(t *testing.T) {
			s := way.serve(t)
			o := apacheOnly
			o.Pools = s.pools
			g := gatherer(t, o)
			s.page(t, "innocent.php", s.shebang(innocentPage))
			for _, c := range []struct {
				name, text         string
				at, visitors, want int
			}{
				{"once.php", oncePage, 1, 4, 48}, {"forging.php", forgingPage, 8, 2, 24}, {"leaving.php", leavingPage, 1, 4, 24},
			} {
				page := s.page(t, c.name, s.shebang(c.text))
				stop := gatherNear(t, g, c.at)
				visits(t, 4, 12, func(v, n int) string {
					if c.name == "leaving.php" && n%2 == 1 || v >= c.visitors {
						return "/innocent.php"
					}
					return "/" + c.name
				})
				got := judge(t, stop(c.want), page)
				t.Logf("%s: %+v", c.name, got)
				if got.asked*10 < c.want*9 { // those for which Exim did not wait tell nothing
					t.Errorf("%d messages of %s were looked at, want %d", got.asked, c.name, c.want)
				}
			}
		})
	}
}

// The ways in which panels hide the status page, on the real one; and what is said where
// it tells nothing.
func TestTheStatusPageWhereverItIs(t *testing.T) {
	const key = "kEy0123456789abcdef"
	for _, c := range []struct {
		name, conf string
		key        bool
		want       policy.Confidence
		says       string
		address    string // "" is the site's
	}{
		{
			"at an address of its own", `ExtendedStatus On
Listen 127.0.0.1:8099
<VirtualHost 127.0.0.1:8099>
</VirtualHost>
<VirtualHost 127.0.0.1:8080>
<Location /server-status>
Require all denied
</Location>
</VirtualHost>
`, false, policy.ConfidenceHigh, "Apache status, worker", "127.0.0.1:8099",
		},
		{"at the key", "ExtendedStatus On\n<Location /" + key + ">\nSetHandler server-status\n</Location>\n<Location /server-status>\nRequire all denied\n</Location>\n", true, policy.ConfidenceHigh, "Apache status, worker", ""},
		{"by the key", `ExtendedStatus On
RewriteEngine On
RewriteCond %%{QUERY_STRING} !key=` + key + `
RewriteRule ^/whm-server-status - [F]
<Location /whm-server-status>
SetHandler server-status
</Location>
<Location /server-status>
Require all denied
</Location>
`, true, policy.ConfidenceHigh, "Apache status, worker", ""},
		{"without requests", "ExtendedStatus Off\n", false, policy.ConfidenceNone, "ExtendedStatus is off", ""},
		{"forbidden", "ExtendedStatus On\n<Location /server-status>\nRequire all denied\n</Location>\n", false, policy.ConfidenceNone, "status 403", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := modPHPWith(t, c.conf)
			o := apacheOnly
			if c.address != "" {
				o.Apache = []string{"http://" + c.address}
			}
			if c.key {
				o.ApacheKeyFile = filepath.Join(s.dir, "key")
				must(t, os.WriteFile(o.ApacheKeyFile, []byte(key+"\n"), 0o600))
			}
			page := s.page(t, "send.php", sendPage)
			want := fmt.Sprintf("confidence %v and %q in its basis", c.want, c.says)
			visitOnce(t, gatherer(t, o), page, want, func(e policy.Evidence) bool {
				if e.Confidence > c.want || strings.Contains(fmt.Sprint(e), key) {
					t.Errorf("the evidence is %+v, which has the key or more confidence than %v", e, c.want)
				}
				return e.Confidence == c.want && strings.Contains(e.Basis, c.says)
			})
		})
	}
}

// pm.status_listen answers while all of the pool's workers are at work.
func TestABusyPoolIsAskedAtItsStatusAddress(t *testing.T) {
	s := newServer(t)
	pool := strings.Replace(fpmPool, "pm.max_children = 16", "pm.max_children = 1\npm.status_listen = %[1]s/status.sock", 1)
	socket := s.startFPM(t, fmt.Sprintf(pool, s.dir))
	waitForWorkers(t, evidence.Pool{Name: account, Address: s.dir + "/status.sock", StatusPath: "/fpm-status"}, 1)
	s.startApache(t, event+fcgiTo(socket))
	page := s.page(t, "send.php", sendPage)
	o := apacheOnly
	o.PoolFiles = []string{s.dir + "/fpm.conf"}
	visitOnce(t, gatherer(t, o), page, "script "+page, func(e policy.Evidence) bool {
		return e.Script == page && e.Confidence == policy.ConfidenceHigh
	})
}

// A question where the pool's requests come in is one of them, which shows that none of
// them waited before it.
func TestTheStatusPageOfAPoolShowsTheQuestionItself(t *testing.T) {
	s := newServer(t)
	socket := s.startFPM(t, fmt.Sprintf(strings.Replace(fpmPool, "pm.max_children = 16", "pm.max_children = 1", 1), s.dir))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	body, err := evidence.AskPool(ctx, evidence.Pool{Name: account, Address: socket, StatusPath: "/fpm-status"})
	if err != nil || !strings.Contains(string(body), `"state":"Running"`) || !strings.Contains(string(body), `"request uri":"\/fpm-status?full&json"`) {
		t.Errorf("%v\n%s", err, body)
	}
}
