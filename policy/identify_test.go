package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// scriptMail is mail() by a script of the account shop.
func scriptMail(change ...func(*Submission)) *Submission {
	s := &Submission{
		Protocol: "local", CallerUID: 1001, Ident: "shop", AuthenticatedID: "shop", WorkingDirectory: "/home/shop/public_html",
		EnvelopeSender: "shop@host.example", HeaderFrom: " Shop <info@shop.example>", Recipients: 1,
	}
	for _, f := range change {
		f(s)
	}
	return s
}

// webMail is the same by the shared web user.
func webMail(change ...func(*Submission)) *Submission {
	return scriptMail(append([]func(*Submission){func(s *Submission) {
		s.CallerUID, s.Ident, s.AuthenticatedID, s.EnvelopeSender = 33, "www-data", "www-data", "www-data@host.example"
	}}, change...)...)
}

// smtpMail is SMTP from an address, without AUTH.
func smtpMail(client string, change ...func(*Submission)) *Submission {
	s := &Submission{
		Protocol: "esmtp", CallerUID: 102, ClientIP: netip.MustParseAddr(client), ClientPort: 41234,
		LocalIP: netip.MustParseAddr("192.0.2.1"), LocalPort: 25, WorkingDirectory: "/", EnvelopeSender: "info@shop.example", Recipients: 1,
	}
	if s.ClientIP.IsLoopback() {
		s.LocalIP = s.ClientIP
	}
	for _, f := range change {
		f(s)
	}
	return s
}

// loginMail is SMTP with AUTH.
func loginMail(id string, change ...func(*Submission)) *Submission {
	return smtpMail("203.0.113.9", append([]func(*Submission){func(s *Submission) {
		s.Protocol, s.AuthenticatedID, s.Authenticator = "esmtpsa", id, "dovecot_login"
	}}, change...)...)
}

func owner1001() *Origin         { return &Origin{ClientUID: 1001, ClientKnown: true} }
func ownedBy(uid uint32) *Origin { return &Origin{ClientUID: uid, ClientKnown: true} }
func nullSender(s *Submission)   { s.EnvelopeSender = "" }
func inDirectory(dir string) func(*Submission) {
	return func(s *Submission) { s.WorkingDirectory = dir }
}

// delivery is the chain of an auto-reply as Exim 4.96 makes it.
func delivery(user uint32) *Origin {
	return &Origin{ParentIsExim: true, Chain: []Process{
		{PID: 30, UID: 102, Executable: "/usr/sbin/exim4", Args: []string{"/usr/sbin/exim4", "-t", "-oem", "-oi", "-f", "<>"}},
		{PID: 29, UID: user, Executable: "/usr/sbin/exim4", Args: []string{"/usr/sbin/exim4", "-Mc", "1xVSYr-0006xc-1f"}},
		{PID: 28, UID: 0, Executable: "/usr/sbin/exim4", Args: []string{"/usr/sbin/exim4", "-Mc", "1xVSYr-0006xc-1f"}},
	}}
}

type identifyTest struct {
	name  string
	s     *Submission
	o     *Origin
	want  Identity // Account, SubKey, Mailbox, Source, ClientIP, IPClass, Directory…, Claimed
	basis string   // whole
}

func runIdentify(t *testing.T, tests []identifyTest) {
	t.Helper()
	m := testMap()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Identify(tt.s, tt.o, m)
			if got.Basis != tt.basis {
				t.Errorf("Basis = %s\nwant    %s", got.Basis, tt.basis)
			}
			if tt.want.Account == "shop" {
				tt.want.Reseller, tt.want.Package = "anna", "gold"
			}
			if tt.want.Account == "news" {
				tt.want.Package = "news"
			}
			tt.want.Basis, tt.want.Script, tt.want.ScriptBasis = got.Basis, got.Script, got.ScriptBasis
			if got != tt.want {
				t.Errorf("Identify = %+v\nwant       %+v", got, tt.want)
			}
			checkIdentity(t, tt.s, tt.o, m)
		})
	}
}

func TestIdentifyLogins(t *testing.T) {
	client := netip.MustParseAddr("203.0.113.9")
	login := func(account, mailbox, sub string) Identity {
		return Identity{Account: account, Mailbox: mailbox, SubKey: sub, Source: SourceLogin, ClientIP: client, IPClass: IPLogin}
	}
	local := login("shop", "info@shop.example", "")
	local.ClientIP, local.IPClass = netip.Addr{}, IPNone
	runIdentify(t, []identifyTest{
		{name: "a mailbox is its domain's account", s: loginMail("info@shop.example"), want: login("shop", "info@shop.example", ""), basis: "SMTP AUTH as info@shop.example (dovecot_login)"},
		{name: "capitals do not matter", s: loginMail("Info@SHOP.Example"), want: login("shop", "info@shop.example", ""), basis: "SMTP AUTH as Info@SHOP.Example (dovecot_login)"},
		{name: "plus stands for at", s: loginMail("info+shop.example"), want: login("shop", "info@shop.example", ""), basis: "SMTP AUTH as info+shop.example (dovecot_login)"},
		{name: "percent stands for at", s: loginMail("info%news.example"), want: login("news", "info@news.example", ""), basis: "SMTP AUTH as info%news.example (dovecot_login)"},
		{name: "colon stands for at", s: loginMail("info:news.example"), want: login("news", "info@news.example", ""), basis: "SMTP AUTH as info:news.example (dovecot_login)"},
		{name: "plus is plus where there is an at", s: loginMail("info+news.example@shop.example"), want: login("shop", "info+news.example@shop.example", ""),
			basis: "SMTP AUTH as info+news.example@shop.example (dovecot_login)"},
		{name: "a domain with a dot behind it", s: loginMail("info@shop.example."), want: login("shop", "info@shop.example", ""), basis: "SMTP AUTH as info@shop.example. (dovecot_login)"},
		{name: "an unknown domain is counted under the address", s: loginMail("a@other.example"), want: login(AccountUnknown, "a@other.example", "a@other.example"),
			basis: "SMTP AUTH as a@other.example (dovecot_login); no account owns that domain"},
		{name: "a subdomain is not its parent's", s: loginMail("a@sub.shop.example"), want: login(AccountUnknown, "a@sub.shop.example", "a@sub.shop.example"),
			basis: "SMTP AUTH as a@sub.shop.example (dovecot_login); no account owns that domain"},
		{name: "the panel's catch-all is no domain", s: loginMail("a@*"), want: login(AccountUnknown, "a@*", "a@*"), basis: "SMTP AUTH as a@* (dovecot_login); no account owns that domain"},
		{name: "a bare system user is that account", s: loginMail("shop"), want: login("shop", "shop", ""), basis: "SMTP AUTH as shop (dovecot_login)"},
		{name: "a bare system user in capitals", s: loginMail("SHOP"), want: login("shop", "shop", ""), basis: "SMTP AUTH as SHOP (dovecot_login)"},
		{name: "a stolen root password is counted", s: loginMail("root"), want: login(AccountSystem, "root", "user root"), basis: "SMTP AUTH as root (dovecot_login)"},
		{name: "a second name of uid 0", s: loginMail("toor"), want: login(AccountSystem, "toor", "user toor"), basis: "SMTP AUTH as toor (dovecot_login)"},
		{name: "a daemon's login is counted", s: loginMail("mysql"), want: login(AccountSystem, "mysql", "user mysql"), basis: "SMTP AUTH as mysql (dovecot_login)"},
		{name: "the shared web user", s: loginMail("www-data"), want: login("(shared:www-data)", "www-data", ""), basis: "SMTP AUTH as www-data (dovecot_login)"},
		{name: "an unknown bare name", s: loginMail("info"), want: login(AccountUnknown, "info", "info"), basis: "SMTP AUTH as info (dovecot_login); no such user"},
		{name: "a login without a name", s: loginMail(""), want: login(AccountUnknown, "", "203.0.113.9"), basis: "SMTP AUTH without a name (dovecot_login)"},
		{name: "a login that may have been cut within its domain", s: loginMail(strings.Repeat("a", 243) + "@shop.example"), want: login(AccountUnknown, strings.Repeat("a", 243)+"@shop.examp", strings.Repeat("a", 243)+"@shop.examp"),
			basis: `SMTP AUTH as "` + strings.Repeat("a", 80) + `" (dovecot_login); longer than a mailbox can be`},
		{name: "a name of control characters", s: loginMail("a\r\nb\x00@shop.example"), want: login("shop", `a\x0d\x0ab\x00@shop.example`, ""), basis: `SMTP AUTH as "a\r\nb\x00@shop.example" (dovecot_login)`},
		{name: "a name that looks like ours", s: loginMail("(system)"), want: login(AccountUnknown, "(system)", "(system)"), basis: "SMTP AUTH as (system) (dovecot_login); no such user"},
		{name: "the panel's own services are not counted", s: loginMail("__cpanel__service__auth__icontact__x8Yz"),
			want:  Identity{Account: AccountSystem, SubKey: "panel service", Mailbox: "__cpanel__service__auth__icontact__x8yz", Source: SourceSystem, ClientIP: client, IPClass: IPLogin},
			basis: "SMTP AUTH as __cpanel__service__auth__icontact__x8Yz (dovecot_login); a service of the panel"},
		{name: "a customer's mailbox named like the panel's services is counted", s: loginMail("__cpanel__service__auth__x@shop.example"),
			want: login("shop", "__cpanel__service__auth__x@shop.example", ""), basis: "SMTP AUTH as __cpanel__service__auth__x@shop.example (dovecot_login)"},
		{name: "the same with a plus", s: loginMail("__cpanel__service__auth__x+shop.example"),
			want: login("shop", "__cpanel__service__auth__x@shop.example", ""), basis: "SMTP AUTH as __cpanel__service__auth__x+shop.example (dovecot_login)"},
		{name: "webmail on this host has no address to count", s: loginMail("info@shop.example", func(s *Submission) { s.ClientIP = netip.MustParseAddr("127.0.0.1") }),
			want: local, basis: "SMTP AUTH as info@shop.example (dovecot_login)"},
		{name: "nor has a login from this host's own address", s: loginMail("info@shop.example", func(s *Submission) { s.ClientIP = netip.MustParseAddr("::ffff:192.0.2.1") }),
			want: local, basis: "SMTP AUTH as info@shop.example (dovecot_login)"},
		{name: "a login wins over the client socket's owner", s: loginMail("info@shop.example", func(s *Submission) { s.ClientIP = netip.MustParseAddr("127.0.0.1"); s.LocalUser = "news" }),
			o: ownedBy(1002), want: local, basis: "SMTP AUTH as info@shop.example (dovecot_login)"},
		{name: "a login in a local SMTP session", s: scriptMail(func(s *Submission) { s.Authenticator, s.AuthenticatedID = "plain", "info@shop.example" }),
			want: local, basis: "SMTP AUTH as info@shop.example (plain)"},
	})
}

func TestIdentifyLoopback(t *testing.T) {
	local := func(account, sub string) Identity {
		return Identity{Account: account, SubKey: sub, Source: SourceLocal}
	}
	system := func(sub string) Identity {
		return Identity{Account: AccountSystem, SubKey: sub, Source: SourceSystem}
	}
	panelSays := func(user string) func(*Submission) { return func(s *Submission) { s.LocalUser = user } }
	const client = "client socket 127.0.0.1:41234"
	runIdentify(t, []identifyTest{
		{name: "the owner of the client's socket", s: smtpMail("127.0.0.1"), o: owner1001(), want: local("shop", ""), basis: client + " belongs to uid 1001"},
		{name: "the same over IPv6", s: smtpMail("::1"), o: owner1001(), want: local("shop", ""), basis: "client socket [::1]:41234 belongs to uid 1001"},
		{name: "the same over this host's own address", s: smtpMail("192.0.2.1"), o: owner1001(), want: local("shop", ""), basis: "client socket 192.0.2.1:41234 belongs to uid 1001"},
		{name: "the kernel's word comes before the panel's", s: smtpMail("127.0.0.1", panelSays("news")), o: owner1001(), want: local("shop", ""), basis: client + " belongs to uid 1001"},
		{name: "the panel's word", s: smtpMail("127.0.0.1", panelSays("news")), want: local("news", ""), basis: client + " belongs to news, says the panel"},
		{name: "the panel's word on a client whose address we do not know as ours", s: smtpMail("10.0.0.7", panelSays("news")), o: owner1001(), want: local("news", ""),
			basis: "client socket 10.0.0.7:41234 belongs to news, says the panel"},
		{name: "the panel names somebody unknown", s: smtpMail("127.0.0.1", panelSays("who\n")), want: local(AccountUnknown, `who\x0a`), basis: client + ` belongs to "who\n", says the panel`},
		{name: "nobody knows the owner", s: smtpMail("127.0.0.1"), want: local(AccountUnknown, "127.0.0.1"), basis: client + ": its owner was not found"},
		{name: "an unknown uid", s: smtpMail("127.0.0.1"), o: ownedBy(4711), want: local(AccountUnknown, "uid 4711"), basis: client + " belongs to uid 4711"},
		{name: "the shared web user", s: smtpMail("127.0.0.1", panelSays("shop")), o: ownedBy(33), want: local("(shared:www-data)", ""), basis: client + " belongs to uid 33"},
		{name: "the shared web user's script", s: smtpMail("127.0.0.1"),
			o: &Origin{ClientUID: 33, ClientKnown: true, Chain: []Process{{PID: 8, UID: 33, Executable: "/usr/bin/php8.2", WorkingDirectory: "/home/shop/public_html", Args: []string{"php", "mailer.php"}}}},
			want: Identity{Account: "(shared:www-data)", Source: SourceLocal, Directory: "/home/shop/public_html", DirectoryAccount: "shop", Claimed: true,
				Script: "/home/shop/public_html/mailer.php", ScriptBasis: "arguments of php8.2, process 8"},
			basis: client + " belongs to uid 33; directory /home/shop/public_html claims account shop"},
		{name: "the shared web user in a folder of nobody's", s: smtpMail("127.0.0.1"),
			o:     &Origin{ClientUID: 33, ClientKnown: true, Chain: []Process{{PID: 8, UID: 33, Executable: "/usr/sbin/php-fpm8.2", WorkingDirectory: "/srv/www"}}},
			want:  Identity{Account: "(shared:www-data)", Source: SourceLocal, Directory: "/srv/www", DirectoryAccount: "(shared:www-data)"},
			basis: client + " belongs to uid 33"},
		{name: "an account's own process adds nothing", s: smtpMail("127.0.0.1"),
			o:    &Origin{ClientUID: 1001, ClientKnown: true, Chain: []Process{{PID: 8, UID: 1001, WorkingDirectory: "/home/news"}}},
			want: local("shop", ""), basis: client + " belongs to uid 1001"},
		{name: "the shared web user, says the panel", s: smtpMail("127.0.0.1", panelSays("nobody")), want: local("(shared:nobody)", ""), basis: client + " belongs to nobody, says the panel"},
		{name: "a daemon", s: smtpMail("127.0.0.1"), o: ownedBy(110), want: local(AccountSystem, "user mysql"), basis: client + " belongs to uid 110"},
		{name: "root", s: smtpMail("127.0.0.1"), o: ownedBy(0), want: system("user root"), basis: client + " belongs to uid 0"},
		{name: "root, says the panel", s: smtpMail("127.0.0.1", panelSays("root")), want: system("user root"), basis: client + " belongs to root, says the panel"},
		{name: "Exim", s: smtpMail("127.0.0.1"), o: ownedBy(102), want: system("user Debian-exim"), basis: client + " belongs to uid 102"},
		{name: "the working directory of Exim's daemon says nothing", s: smtpMail("127.0.0.1", inDirectory("/home/news")), o: owner1001(), want: local("shop", ""), basis: client + " belongs to uid 1001"},
	})
}

func TestIdentifyRelays(t *testing.T) {
	relay := func(account, mailbox, sub, ip string, class IPClass) Identity {
		return Identity{Account: account, Mailbox: mailbox, SubKey: sub, Source: SourceRelay, ClientIP: netip.MustParseAddr(ip), IPClass: class}
	}
	entry := func(e string) func(*Submission) { return func(s *Submission) { s.RecentAuth = e } }
	always := func(v string) func(*Submission) { return func(s *Submission) { s.AlwaysRelay = v } }
	stranger := func(ip string) Identity {
		return Identity{Account: AccountUnknown, SubKey: ip, Source: SourceUnknown}
	}
	runIdentify(t, []identifyTest{
		{name: "an address of the map that logged in lately", s: smtpMail("203.0.113.5"), want: relay("shop", "info@shop.example", "", "203.0.113.5", IPRecentAuth),
			basis: `203.0.113.5 logged in lately as info@shop.example|shop.example`},
		{name: "an address without an entry", s: smtpMail("203.0.113.6"), want: relay(AccountUnknown, "", "203.0.113.6", "203.0.113.6", IPRecentAuth), basis: `203.0.113.6 logged in lately as ""`},
		{name: "what the panel's ACL found", s: smtpMail("203.0.113.9", entry("Boss@News.example|news.example")), want: relay("news", "boss@news.example", "", "203.0.113.9", IPRecentAuth),
			basis: "203.0.113.9 logged in lately as Boss@News.example|news.example"},
		{name: "the domain decides, not the sender", s: smtpMail("203.0.113.9", entry("info@shop.example|news.example")), want: relay("news", "", "", "203.0.113.9", IPRecentAuth),
			basis: "203.0.113.9 logged in lately as info@shop.example|news.example"},
		{name: "an entry with an address alone", s: smtpMail("203.0.113.9", entry("info@shop.example")), want: relay("shop", "info@shop.example", "", "203.0.113.9", IPRecentAuth),
			basis: "203.0.113.9 logged in lately as info@shop.example"},
		{name: "an entry with a user", s: smtpMail("203.0.113.9", entry("shop")), want: relay("shop", "", "", "203.0.113.9", IPRecentAuth), basis: "203.0.113.9 logged in lately as shop"},
		{name: "an entry that may have been cut within its domain", s: smtpMail("203.0.113.9", entry(strings.Repeat("a", 243)+"|shop.example")), want: relay(AccountUnknown, "", "203.0.113.9", "203.0.113.9", IPRecentAuth),
			basis: `203.0.113.9 logged in lately as "` + strings.Repeat("a", 80) + `"`},
		{name: "an entry with a system user", s: smtpMail("203.0.113.9", entry("mysql")), want: relay(AccountUnknown, "", "203.0.113.9", "203.0.113.9", IPRecentAuth), basis: "203.0.113.9 logged in lately as mysql"},
		{name: "an entry with an unknown domain", s: smtpMail("203.0.113.9", entry("a@x.example|x.example")), want: relay(AccountUnknown, "", "203.0.113.9", "203.0.113.9", IPRecentAuth),
			basis: "203.0.113.9 logged in lately as a@x.example|x.example"},
		{name: "an address that may always relay", s: smtpMail("198.51.100.200"), want: relay(AccountUnknown, "", "198.51.100.200", "198.51.100.200", IPAlwaysRelay), basis: "198.51.100.200 may always relay"},
		{name: "the panel lets it always relay", s: smtpMail("203.0.113.9", always("1")), want: relay(AccountUnknown, "", "203.0.113.9", "203.0.113.9", IPAlwaysRelay), basis: "203.0.113.9 may always relay"},
		{name: "the panel does not let it always relay", s: smtpMail("203.0.113.9", always("0")), want: stranger("203.0.113.9"), basis: "SMTP from 203.0.113.9 without AUTH"},
		{name: "a stranger", s: smtpMail("203.0.113.9"), want: stranger("203.0.113.9"), basis: "SMTP from 203.0.113.9 without AUTH"},
		{name: "a stranger's socket has no owner here", s: smtpMail("203.0.113.9"), o: owner1001(), want: stranger("203.0.113.9"), basis: "SMTP from 203.0.113.9 without AUTH"},
		{name: "IPv4 in IPv6 form is the same address", s: smtpMail("::ffff:203.0.113.5"), want: relay("shop", "info@shop.example", "", "203.0.113.5", IPRecentAuth),
			basis: `203.0.113.5 logged in lately as info@shop.example|shop.example`},
	})
}

func TestIdentifyScripts(t *testing.T) {
	in := func(id Identity, dir string) Identity {
		id.Source, id.Directory, id.DirectoryAccount = SourceScript, dir, id.Account
		return id
	}
	const www = "/home/shop/public_html"
	shop := in(Identity{Account: "shop"}, www)
	uid := func(n int64) func(*Submission) { return func(s *Submission) { s.CallerUID = n } }
	ident := func(name string) func(*Submission) {
		return func(s *Submission) { s.CallerUID, s.Ident = -1, name }
	}
	root := in(Identity{Account: AccountSystem, SubKey: "user root"}, "/root")
	root.Source = SourceSystem
	exim := Identity{Account: AccountSystem, SubKey: "user Debian-exim", Source: SourceSystem}
	automatic := func(account, sub string) Identity {
		return Identity{Account: account, SubKey: sub, Source: SourceAutomatic}
	}
	byHand := &Origin{ParentIsExim: true, Chain: []Process{
		{PID: 30, UID: 102, Executable: "/usr/sbin/exim4"},
		{PID: 29, UID: 1001, Executable: "/usr/sbin/exim4", Args: []string{"exim4", "-be", "${run{/usr/sbin/sendmail -f <> x@y.example}}"}},
		{PID: 28, UID: 1001, Executable: "/usr/bin/dash"},
	}}
	twice := &Origin{ParentIsExim: true, Chain: []Process{byHand.Chain[0], byHand.Chain[1], byHand.Chain[1]}}
	runIdentify(t, []identifyTest{
		{name: "the caller's uid", s: scriptMail(), want: shop, basis: "uid 1001 called sendmail"},
		{name: "a second name of that uid", s: scriptMail(ident("shop-ftp")), want: shop, basis: "Exim named the caller shop-ftp (its uid was not told)"},
		{name: "the login name is a hint and does not count", s: scriptMail(func(s *Submission) { s.Ident, s.AuthenticatedID = "news", "news" }), want: shop, basis: "uid 1001 called sendmail"},
		{name: "SMTP to sendmail -bs", s: scriptMail(func(s *Submission) { s.Protocol = "local-esmtp" }), want: shop, basis: "uid 1001 called sendmail"},
		{name: "no uid, but the login name", s: scriptMail(ident("news")), want: in(Identity{Account: "news"}, www), basis: "Exim named the caller news (its uid was not told)"},
		{name: "no uid, and an unknown login name", s: scriptMail(ident("who's\x00")), want: in(Identity{Account: AccountUnknown, SubKey: `who's\x00`}, www), basis: `Exim named the caller "who's\x00" (its uid was not told)`},
		{name: "neither uid nor login name", s: scriptMail(ident("")), want: in(Identity{Account: AccountUnknown, SubKey: "no uid"}, www), basis: "sendmail's caller was not told"},
		{name: "a uid subordinate to an account", s: scriptMail(uid(100_033)), want: shop, basis: "uid 100033 (subordinate to shop) called sendmail"},
		{name: "an unknown uid", s: scriptMail(uid(4711)), want: in(Identity{Account: AccountUnknown, SubKey: "uid 4711"}, www), basis: "uid 4711 called sendmail"},
		{name: "the uid of a deleted second account", s: scriptMail(uid(1010)), want: in(Identity{Account: AccountUnknown, SubKey: "uid 1010"}, www), basis: "uid 1010 called sendmail"},
		{name: "the greatest uid", s: scriptMail(uid(4294967295)), want: in(Identity{Account: AccountUnknown, SubKey: "uid 4294967295"}, www), basis: "uid 4294967295 called sendmail"},
		{name: "no uid at all but a number", s: scriptMail(uid(1 << 40)), want: shop, basis: "Exim named the caller shop (its uid was not told)"},
		{name: "a daemon's cron job is charged to nobody", s: scriptMail(uid(110), inDirectory("/home/shop")), want: in(Identity{Account: AccountSystem, SubKey: "user mysql"}, "/home/shop"), basis: "uid 110 called sendmail"},
		{name: "root's cron job is charged to nobody", s: scriptMail(uid(0), inDirectory("/root")), want: root, basis: "uid 0 called sendmail"},
		{name: "a working directory elsewhere stays the account's own", s: scriptMail(inDirectory("/home2/news/www")), want: in(Identity{Account: "shop"}, "/home2/news/www"), basis: "uid 1001 called sendmail"},
		{name: "a working directory that is none", s: scriptMail(inDirectory("")), want: Identity{Account: "shop", Source: SourceScript}, basis: "uid 1001 called sendmail"},
		{name: "the caller's working directory where Exim told none", s: scriptMail(inDirectory("")), o: &Origin{Chain: chain(Process{WorkingDirectory: www})}, want: shop, basis: "uid 1001 called sendmail"},

		{name: "an auto-reply", s: scriptMail(nullSender), o: delivery(1001), want: automatic("shop", ""), basis: "auto-reply of uid 1001: Exim's delivery submitted it with a null sender"},
		{name: "an auto-reply, parents not told", s: scriptMail(nullSender), o: &Origin{ParentIsExim: true}, want: automatic("shop", ""), basis: "auto-reply of uid 1001: Exim's delivery submitted it with a null sender"},
		{name: "an auto-reply of a user without an account", s: scriptMail(nullSender, uid(4711)), o: delivery(4711), want: automatic(AccountUnknown, "uid 4711"),
			basis: "auto-reply of uid 4711: Exim's delivery submitted it with a null sender"},
		{name: "an auto-reply with a sender is a script", s: scriptMail(), o: delivery(1001), want: shop, basis: "uid 1001 called sendmail"},
		{name: "a program in a .forward pipe is a script, with a null sender too", s: scriptMail(nullSender),
			o: &Origin{Chain: chain(Process{PID: 29, UID: 1001, Executable: "/usr/bin/perl"}, Process{PID: 28, UID: 1001, Executable: "/usr/sbin/exim4"})}, want: shop, basis: "uid 1001 called sendmail"},
		{name: "a script with a null sender is a script", s: scriptMail(nullSender), want: shop, basis: "uid 1001 called sendmail"},
		{name: "a script that runs Exim as sendmail's parent is a script", s: scriptMail(nullSender), o: byHand, want: shop, basis: "uid 1001 called sendmail"},
		{name: "also if it runs Exim twice", s: scriptMail(nullSender), o: twice, want: shop, basis: "uid 1001 called sendmail"},
		{name: "Exim's own with a null sender", s: scriptMail(nullSender, uid(102)), want: exim, basis: "Exim itself with a null sender"},
		{name: "Exim's user with a sender", s: scriptMail(uid(102)), want: in(Identity{Account: AccountSystem, SubKey: "user Debian-exim"}, www), basis: "uid 102 called sendmail"},
	})
}

func TestIdentifySharedWebUser(t *testing.T) {
	const shared, www = "(shared:www-data)", "/home/shop/public_html"
	at := func(account, dir, owner string, claimed bool) Identity {
		return Identity{Account: account, Source: SourceScript, Directory: dir, DirectoryAccount: owner, Claimed: claimed}
	}
	vhost := func(v string) func(*Submission) { return func(s *Submission) { s.VhostOwner = v } }
	header := func(h string) func(*Submission) { return func(s *Submission) { s.PHPScript = h } }
	claimed := at(shared, www, "shop", true)
	const claims = "shared web user www-data; directory /home/shop/public_html claims account shop"
	above := &Origin{Chain: chain(Process{PID: 41, WorkingDirectory: "/tmp"}, Process{PID: 40, WorkingDirectory: "/", ScriptFilename: "/home2/news/www/a.php"})}
	runIdentify(t, []identifyTest{
		{name: "the virtual host's owner is proof", s: webMail(vhost("1001:http://shop.example/contact.php")), want: at("shop", www, "shop", false),
			basis: "shared web user www-data; the panel found the virtual host of uid 1001, http://shop.example/contact.php"},
		{name: "proof wins over a chdir into a neighbour's home", s: webMail(vhost("1001:/x"), inDirectory("/home2/news/www")), want: at("shop", "/home2/news/www", "shop", false),
			basis: "shared web user www-data; the panel found the virtual host of uid 1001, /x"},
		{name: "the virtual host of the shared user is no proof", s: webMail(vhost("33:/x")), want: claimed, basis: claims},
		{name: "the virtual host of root is no proof", s: webMail(vhost("0:/x")), want: claimed, basis: claims},
		{name: "the virtual host of an unknown uid is no proof", s: webMail(vhost("4711:/x")), want: claimed, basis: claims},
		{name: "a broken virtual host is no proof", s: webMail(vhost("shop")), want: claimed, basis: claims},
		{name: "a virtual host means nothing where the caller has a uid of its own", s: scriptMail(vhost("1002:/x")), want: at("shop", www, "shop", false), basis: "uid 1001 called sendmail"},

		{name: "the working directory is a claim", s: webMail(), want: claimed, basis: claims},
		{name: "a chdir into a neighbour's home is such a claim", s: webMail(inDirectory("/home2/news/www")), want: at(shared, "/home2/news/www", "news", true),
			basis: "shared web user www-data; directory /home2/news/www claims account news"},
		{name: "a directory of no account is the shared user's own", s: webMail(inDirectory("/var/www/html")), want: at(shared, "/var/www/html", shared, false), basis: "shared web user www-data"},
		{name: "a header claims, and moves no count", s: webMail(inDirectory("/tmp"), header(" 1002:a.php\n")), want: at(shared, "/tmp", shared, false),
			basis: "shared web user www-data; a header claims account news"},
		{name: "a header claims somebody else than the directory", s: webMail(header("www.news.example/a.php for 203.0.113.9")), want: claimed, basis: claims + "; a header claims account news"},
		{name: "a header that agrees says nothing new", s: webMail(header("1001:a.php")), want: claimed, basis: claims},
		{name: "a header with the shared user's own uid", s: webMail(header("33:a.php")), want: claimed, basis: claims},
		{name: "a process above claims, and moves no count", s: webMail(inDirectory("/tmp")), o: above, want: at(shared, "/tmp", shared, false),
			basis: "shared web user www-data; process 40 above claims account news"},
		{name: "by the login name where no uid was told", s: webMail(func(s *Submission) { s.CallerUID = -1 }), want: claimed, basis: claims},
		{name: "an auto-reply of the shared user", s: webMail(nullSender), o: delivery(33), want: Identity{Account: shared, Source: SourceAutomatic},
			basis: "auto-reply of uid 33: Exim's delivery submitted it with a null sender"},
	})
}

// ownUsage is what an account's counters hold, without what was only claimed.
func ownUsage(e *Engine, account string) string {
	text := ""
	for _, u := range e.Usage(noon(), account) {
		if !strings.HasPrefix(u.Key, account+" "+claimedKey) {
			text += fmt.Sprintf("%s %s=%d\n", u.Trigger, u.Key, u.Used)
		}
	}
	return text
}

// TestNothingTheSenderWritesChangesTheAccount takes what a spammer may forge, one after
// the other, on every way of submission: neither whom it is charged to nor any counter of
// the neighbour changes.
func TestNothingTheSenderWritesChangesTheAccount(t *testing.T) {
	m := testMap()
	forgeries := map[string]func(*Submission){
		"a neighbour's envelope sender":     func(s *Submission) { s.EnvelopeSender = "info@news.example" },
		"a null sender":                     nullSender,
		"a neighbour's Header From":         func(s *Submission) { s.HeaderFrom = " News <info@news.example>" },
		"a forged X-PHP-Originating-Script": func(s *Submission) { s.PHPScript = "1002:index.php" },
		"a forged X-PHP-Script":             func(s *Submission) { s.PHPScript = "news.example/index.php for 203.0.113.9" },
		"a neighbour's HELO":                func(s *Submission) { s.HELO = "news.example" },
		"a neighbour's Subject":             func(s *Submission) { s.Subject = "News 1002" },
		"a neighbour's name as ident":       func(s *Submission) { s.Ident = "news" },
		"a neighbour's directory":           inDirectory("/home2/news/www"),
	}
	ways := map[string]struct {
		make func(...func(*Submission)) *Submission
		o    *Origin
		want string
	}{
		"script":          {scriptMail, nil, "shop"},
		"shared web user": {webMail, nil, "(shared:www-data)"},
		"proved owner": {func(f ...func(*Submission)) *Submission {
			return webMail(append(f, func(s *Submission) { s.VhostOwner = "1001:/" })...)
		}, nil, "shop"},
		"loopback":     {func(f ...func(*Submission)) *Submission { return smtpMail("127.0.0.1", f...) }, owner1001(), "shop"},
		"login":        {func(f ...func(*Submission)) *Submission { return loginMail("info@shop.example", f...) }, nil, "shop"},
		"recent login": {func(f ...func(*Submission)) *Submission { return smtpMail("203.0.113.5", f...) }, nil, "shop"},
		"stranger":     {func(f ...func(*Submission)) *Submission { return smtpMail("203.0.113.9", f...) }, nil, AccountUnknown},
		"auto-reply":   {func(f ...func(*Submission)) *Submission { return scriptMail(f...) }, delivery(1001), "shop"},
	}
	r := &Rules{Triggers: DefaultTriggers()}
	for i := range r.Triggers {
		r.Triggers[i].Mode, r.Triggers[i].Max = Enforce, 1<<30
	}
	e := newTestEngine(t, r)
	genuine := scriptMail(inDirectory("/home2/news/www"), func(s *Submission) { s.CallerUID, s.Subject = 1002, "News 1002" })
	e.Check(noon(), genuine, Identify(genuine, nil, m))
	before := ownUsage(e, "news")
	for way, w := range ways {
		for forgery, forge := range forgeries {
			s := w.make(forge)
			id := Identify(s, w.o, m)
			e.Check(noon(), s, id)
			if after := ownUsage(e, "news"); after != before {
				t.Errorf("%s with %s: the neighbour's counters were\n%sand are now\n%s", way, forgery, before, after)
				before = after
			}
			if id.Account != w.want {
				t.Errorf("%s with %s: charged to %q, want %q (%s)", way, forgery, id.Account, w.want, id.Basis)
			}
			if id.DirectoryAccount == "news" && !id.Claimed {
				t.Errorf("%s with %s: the neighbour's directory is counted as if proved (%s)", way, forgery, id.Basis)
			}
		}
	}
}

func TestIdentifyWithoutMapOrOrigin(t *testing.T) {
	id := Identify(scriptMail(), nil, nil)
	if id.Account != AccountUnknown || id.SubKey != "uid 1001" {
		t.Errorf("Identify without a map = %q, %q; want (unknown), uid 1001", id.Account, id.SubKey)
	}
	if id = Identify(scriptMail(func(s *Submission) { s.CallerUID = 0 }), nil, nil); id.Account != AccountSystem || id.SubKey != "user root" {
		t.Errorf("Identify of root without a map = %q, %q; want (system), user root", id.Account, id.SubKey)
	}
}

func TestWhatIsAskedOfTheKernel(t *testing.T) {
	for _, tt := range []struct {
		name         string
		s            *Submission
		owner, chain bool
	}{
		{"a script", scriptMail(), false, true},
		{"SMTP from 127.0.0.1", smtpMail("127.0.0.1"), true, false},
		{"SMTP from 127.0.0.1 in IPv6 form", smtpMail("::ffff:127.0.0.1"), true, false},
		{"SMTP from ::1", smtpMail("::1"), true, false},
		{"SMTP from this host's own address", smtpMail("192.0.2.1"), true, false},
		{"SMTP from elsewhere", smtpMail("203.0.113.9"), false, false},
		{"a login from 127.0.0.1", loginMail("a@b", func(s *Submission) { s.ClientIP = netip.MustParseAddr("127.0.0.1") }), false, false},
	} {
		if got := NeedsClientOwner(tt.s); got != tt.owner {
			t.Errorf("%s: NeedsClientOwner = %v, want %v", tt.name, got, tt.owner)
		}
		if got := NeedsChain(tt.s); got != tt.chain {
			t.Errorf("%s: NeedsChain = %v, want %v", tt.name, got, tt.chain)
		}
	}
}

// checkIdentity holds for every submission whatever: an account, everything bounded
// and printable, and nobody else charged for what the sender may write.
func checkIdentity(t *testing.T, s *Submission, o *Origin, m *AccountMap) {
	t.Helper()
	id := Identify(s, o, m)
	if id.Account == "" || (id.Account == AccountUnknown || id.Account == AccountSystem) != (id.SubKey != "") {
		t.Errorf("Identify(%+v): account %q, sub-key %q; want an account, and a sub-key exactly for those without a name", s, id.Account, id.SubKey)
	}
	if id.Claimed && (id.Directory == "" || id.DirectoryAccount == id.Account || !strings.HasPrefix(id.Account, "(shared:")) {
		t.Errorf("Identify(%+v) claims without a shared user or a directory: %+v", s, id)
	}
	if (id.Directory == "") != (id.DirectoryAccount == "") {
		t.Errorf("Identify(%+v): directory %q of account %q", s, id.Directory, id.DirectoryAccount)
	}
	if (id.IPClass == IPNone) != !id.ClientIP.IsValid() {
		t.Errorf("Identify(%+v): address %v of class %q", s, id.ClientIP, id.IPClass)
	}
	for what, v := range map[string]struct {
		text string
		max  int
	}{
		"Basis": {id.Basis, maxBasis}, "SubKey": {id.SubKey, maxMailbox + 8}, "Mailbox": {id.Mailbox, maxMailbox}, "Directory": {id.Directory, maxPath},
		"Script": {id.Script, maxPath}, "ScriptBasis": {id.ScriptBasis, maxScriptBasis}, "Account": {id.Account, 80},
	} {
		if len(v.text) > v.max || !utf8.ValidString(v.text) || strings.ContainsFunc(v.text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("Identify(%+v): %s = %q; want at most %d printable bytes", s, what, v.text, v.max)
		}
	}
	if id.Basis == "" {
		t.Errorf("Identify(%+v) has no basis", s)
	}
	forged := *s
	forged.EnvelopeSender, forged.HeaderFrom, forged.PHPScript, forged.HELO, forged.Subject = "x@news.example", "x@news.example", "1002:x.php", "news.example", "x"
	if s.EnvelopeSender != "" {
		forged.EnvelopeSender = ""
	}
	other := Identify(&forged, o, m)
	if other.Account != id.Account || other.SubKey != id.SubKey || other.Mailbox != id.Mailbox {
		t.Errorf("Identify(%+v) = %q %q %q, but with another sender and headers %q %q %q", s, id.Account, id.SubKey, id.Mailbox, other.Account, other.SubKey, other.Mailbox)
	}
	if s.CallerUID != 1002 && !s.namesNews() && !o.namesNews() && id.DirectoryAccount == "news" && !id.Claimed {
		t.Errorf("Identify(%+v) charges the neighbour's directory: %+v", s, id)
	}
}

// namesNews reports whether something that is not the sender's to choose speaks of the
// account news.
func (s *Submission) namesNews() bool {
	return strings.Contains(strings.ToLower(s.AuthenticatedID+s.LocalUser+s.RecentAuth+s.Ident), "news") || strings.HasPrefix(s.VhostOwner, "1002") || strings.HasPrefix(s.VhostOwner, "0")
}

func (o *Origin) namesNews() bool { return o != nil && o.ClientUID == 1002 }

func FuzzIdentify(f *testing.F) {
	m := testMap()
	f.Add(int64(1001), "", "shop", "shop", "", "", "", "", "", "/home/shop", "1001:a.php", "shop@host.example", uint32(0), "php", "a.php")
	f.Add(int64(33), "", "www-data", "", "", "", "1001:/x", "", "", "/home2/news/www", "x/y for 1.2.3.4", "", uint32(33), "sh", "-c")
	f.Add(int64(102), "127.0.0.1", "", "", "", "shop", "", "", "", "/", "", "", uint32(1001), "", "")
	f.Add(int64(102), "203.0.113.9", "", "info+shop.example", "plain", "", "", "a@shop.example|shop.example", "1", "/", "", "", uint32(1), "perl", "-we")
	f.Add(int64(-1), "::ffff:192.0.2.1", "", "__cpanel__service__auth__@\xff", "x\n", "", "", "|", "0", "\x00/", ":", "", uint32(0), "", "")
	f.Fuzz(func(t *testing.T, uid int64, ip, ident, auth, authenticator, localUser, vhost, recent, always, cwd, php, from string, owner uint32, exe, arg string) {
		s := &Submission{
			CallerUID: uid, Ident: ident, AuthenticatedID: auth, Authenticator: authenticator, LocalUser: localUser, VhostOwner: vhost, RecentAuth: recent, AlwaysRelay: always,
			WorkingDirectory: cwd, PHPScript: php, EnvelopeSender: from, LocalIP: netip.MustParseAddr("192.0.2.1"),
		}
		s.ClientIP, _ = netip.ParseAddr(ip)
		p := Process{PID: 7, UID: owner, Executable: "/usr/bin/" + exe, Args: []string{exe, arg, php}, WorkingDirectory: cwd, ScriptFilename: arg, RequestURI: from, RemoteAddr: ip}
		for _, o := range []*Origin{nil, ownedBy(owner), {ParentIsExim: true, Chain: []Process{p, p, p, p}}} {
			checkIdentity(t, s, o, m)
		}
	})
}

func FuzzSplitLogin(f *testing.F) {
	for _, s := range []string{"info@shop.example", "a+b%c:d", "@", "shop", "a@b.", "\xff@\xff", "@@", "%..", "%0" + strings.Repeat("\xaa", 500)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, login string) {
		local, domain := splitLogin(login)
		if strings.Contains(domain, "@") || len(local)+len(domain) > 3*len(login) {
			t.Errorf("splitLogin(%q) = %q, %q", login, local, domain)
		}
		if domain == "" {
			return
		}
		if l, d := splitLogin(local + "@" + domain); l != local || d != domain {
			t.Errorf("splitLogin(%q) = %q, %q, but together they give %q, %q", login, local, domain, l, d)
		}
	})
}

func BenchmarkIdentify(b *testing.B) {
	m := testMap()
	for _, bb := range []struct {
		name string
		s    *Submission
		o    *Origin
	}{
		{"script", scriptMail(), &Origin{Chain: chain(
			Process{PID: 101, Executable: "/usr/bin/dash", Args: []string{"sh", "-c", "/usr/sbin/sendmail -t -i"}},
			Process{PID: 102, Executable: "/usr/bin/php8.2", WorkingDirectory: "/home/shop/cron", Args: []string{"php", "send.php"}})}},
		{"shared", webMail(), nil},
		{"loopback", smtpMail("127.0.0.1"), owner1001()},
		{"login", loginMail("info@shop.example"), nil},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Identify(bb.s, bb.o, m)
			}
		})
	}
}

func TestAnAddressIsCountedWithItsNetwork(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32", "2001:db8::1": "2001:db8::/64", "2001:db8:0:1:ffff::9%eth0": "2001:db8:0:1::/64",
	} {
		a := netip.MustParseAddr(addr)
		got := CountedNet(a)
		group := ipGroup(IPLogin, a)
		if got.String() != want || group != "ip:login:"+strings.TrimSuffix(want, "/32") {
			t.Errorf("%s is counted as %s in %q, want %s", addr, got, group, want)
		}
	}
	if CountedNet(netip.Addr{}).IsValid() {
		t.Error("no address has a network")
	}
}

func TestTheChainIsSparedOnlyWhereItDecidesNothing(t *testing.T) {
	m := testMap()
	plain := Submission{CallerUID: 1001, EnvelopeSender: "a@example.com", WorkingDirectory: "/home/alice"}
	if ChainDecides(&plain, m) {
		t.Error("an account's own uid, a sender and a directory: the chain cannot change the charge")
	}
	for name, change := range map[string]func(*Submission){
		"a shared web user":  func(s *Submission) { s.CallerUID = 33 },
		"a null sender":      func(s *Submission) { s.EnvelopeSender = "" },
		"no directory":       func(s *Submission) { s.WorkingDirectory = "" },
		"no uid":             func(s *Submission) { s.CallerUID = -1 },
		"a uid out of range": func(s *Submission) { s.CallerUID = 1 << 32 },
	} {
		s := plain
		if change(&s); !ChainDecides(&s, m) {
			t.Errorf("%s: the chain was to be spared", name)
		}
	}
	id := Identify(&plain, &Origin{Spared: true}, m)
	if !strings.Contains(id.Basis, "processes were not looked at") {
		t.Errorf("basis %q does not say that the processes were not looked at", id.Basis)
	}
}
