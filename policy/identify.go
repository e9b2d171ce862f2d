package policy

import (
	"net/netip"
	"strconv"
	"strings"
)

// Bounds of what an [Identity] says, in bytes.
const (
	maxBasis   = 400
	maxMailbox = 254 // RFC 5321, section 4.5.3.1.3
)

// serviceLogin begins the names by which cPanel's own services log in.
const serviceLogin = "__cpanel__service__auth__"

// NeedsClientOwner reports whether the kernel is to be asked who owns the client's end
// of the connection: SMTP from this host without AUTH.
func NeedsClientOwner(s *Submission) bool {
	return !s.Local() && s.Authenticator == "" && (s.fromThisHost() || s.mayBeRedirected())
}

// mayBeRedirected reports whether the client may be a process of this host that wanted to go
// elsewhere: a firewall rule for outgoing mail leads to the loopback address, and keeps the
// client's own (the nat table's OUTPUT, as cPanel's SMTP Restrictions and csf use it).
func (s *Submission) mayBeRedirected() bool {
	return !s.fromThisHost() && plainAddr(s.LocalIP).IsLoopback()
}

// NeedsChain reports whether the processes that submitted s are to be looked at: for
// SMTP the peer is a child of Exim's daemon and says nothing.
func NeedsChain(s *Submission) bool { return s.Local() }

// ChainDecides reports whether those processes may say whose a local submission is, or which
// directory it counts for: else they are evidence alone.
func ChainDecides(s *Submission, m *AccountMap) bool {
	if s.CallerUID < 0 || s.CallerUID > 1<<32-1 || s.EnvelopeSender == "" || s.WorkingDirectory == "" {
		return true
	}
	_, shared := m.SharedUID(uint32(s.CallerUID))
	return shared
}

// fromThisHost reports whether the client's address is one of this host's, as far as
// the connection shows it.
func (s *Submission) fromThisHost() bool {
	ip := plainAddr(s.ClientIP)
	return ip.IsLoopback() || (s.LocalIP.IsValid() && ip == plainAddr(s.LocalIP))
}

// Identify says whose message s is and on what grounds, in the order of cPanel's own
// attribution, so that its numbers and ours agree.
//
// Only what Exim and the kernel know decides: the authenticated id, the owner of a
// local connection, the caller's uid, the panel's maps. The envelope sender, Header
// From and other headers never do: whoever writes them could charge a neighbour.
func Identify(s *Submission, o *Origin, m *AccountMap) Identity {
	if o == nil {
		o = new(Origin)
	}
	if m == nil {
		m = NewAccountMap(AccountMapInput{})
	}
	var id Identity
	switch {
	case s.Authenticator != "":
		id = identifyLogin(s, m)
	case s.Local():
		id = identifyScript(s, o, m)
	case s.fromThisHost() || o.Redirected && o.ClientKnown || s.LocalUser != "":
		id = identifyLoopback(s, o, m)
	default:
		id = identifyRelay(s, m)
	}
	id.Basis = cutText(id.Basis, maxBasis)
	return id
}

// charge makes the message that of a hosting account.
func (id *Identity) charge(a Account) {
	id.Account, id.Reseller, id.Package, id.SubKey = a.Name, a.Reseller, a.Package, ""
}

// chargeSystem makes the message that of a user who is nobody's hosting account.
func (id *Identity) chargeSystem(user string) {
	id.Account, id.SubKey = AccountSystem, "user "+user
}

// chargeUnknown counts the message under a name of its own and charges nobody.
func (id *Identity) chargeUnknown(who string) {
	if who == "" {
		who = "no name"
	}
	id.Account, id.SubKey = AccountUnknown, printable(who, maxMailbox)
}

// chargeUID charges the user with that uid. It returns the name of a shared web user.
func (id *Identity) chargeUID(m *AccountMap, uid uint32) (shared string) {
	if uid == 0 {
		id.chargeSystem("root")
		return ""
	}
	a, known := m.ByUID(uid)
	if !known {
		a, known = m.BySubUID(uid)
	}
	if exim, ok := m.EximUID(); ok && uid == exim {
		if !known {
			a.Name = "exim"
		}
		id.chargeSystem(a.Name)
		return ""
	}
	if shared, ok := m.SharedUID(uid); ok {
		id.Account = SharedAccount(shared)
		return shared
	}
	switch {
	case !known:
		id.chargeUnknown("uid " + strconv.FormatUint(uint64(uid), 10))
	case a.System:
		id.chargeSystem(a.Name)
	default:
		id.charge(a)
	}
	return ""
}

// subordinate is what a basis adds behind a uid that is not its account's own.
func subordinate(m *AccountMap, uid uint32) string {
	if a, found := m.BySubUID(uid); found {
		return " (subordinate to " + a.Name + ")"
	}
	return ""
}

// chargeUser charges the user of that name. It returns the name of a shared web user.
func (id *Identity) chargeUser(m *AccountMap, user string) (shared string) {
	switch a, known := m.ByName(user); {
	case m.SharedUser(user):
		id.Account = SharedAccount(user)
		return user
	case known && a.System, user == "root":
		id.chargeSystem(user)
	case known:
		return id.chargeUID(m, a.UID) // two names of one uid are one user
	default:
		id.chargeUnknown(user)
	}
	return ""
}

// identifyLogin is for SMTP AUTH.
func identifyLogin(s *Submission, m *AccountMap) Identity {
	id := Identity{Source: SourceLogin, Basis: "SMTP AUTH as " + quoted(s.AuthenticatedID) + " (" + quoted(s.Authenticator) + ")"}
	if !s.Local() && !s.fromThisHost() {
		id.ClientIP, id.IPClass = plainAddr(s.ClientIP), IPLogin
	}
	if len(s.AuthenticatedID) > maxMailbox {
		// The front-end cuts: what seems to be its domain may be the beginning of another.
		id.Mailbox = printable(s.AuthenticatedID, maxMailbox)
		id.chargeUnknown(id.Mailbox)
		id.Basis += "; longer than a mailbox can be"
		return id
	}
	local, domain := splitLogin(s.AuthenticatedID)
	if domain != "" {
		id.Mailbox = printable(local+"@"+domain, maxMailbox)
		if a, ok := m.ByDomain(domain); ok {
			id.charge(a)
			return id
		}
		id.chargeUnknown(id.Mailbox)
		id.Basis += "; no account owns that domain"
		return id
	}
	user := s.AuthenticatedID
	if _, known := m.ByName(user); !known {
		user = local
	}
	id.Mailbox = printable(local, maxMailbox)
	_, known := m.ByName(user)
	switch {
	case known || m.SharedUser(user) || user == "root":
		id.chargeUser(m, user)
	case strings.HasPrefix(user, serviceLogin):
		id.Account, id.SubKey, id.Source = AccountSystem, "panel service", SourceSystem
		id.Basis += "; a service of the panel"
	case user == "":
		id.chargeUnknown(addressKey(s.ClientIP))
		id.Basis = "SMTP AUTH without a name (" + quoted(s.Authenticator) + ")"
	default:
		id.chargeUnknown(id.Mailbox)
		id.Basis += "; no such user"
	}
	return id
}

// splitLogin takes an authenticated id apart, in lower case. Mail programs that allow
// no "@" in a login write "+", "%" or ":" instead; a login with "@" means them literally. A
// bare user has no domain.
func splitLogin(login string) (local, domain string) {
	login = strings.ToLower(login)
	i := strings.LastIndexByte(login, '@')
	if i < 0 {
		i = strings.LastIndexAny(login, "+%:")
	}
	if i < 0 {
		return login, ""
	}
	domain = strings.TrimRight(login[i+1:], ".")
	if domain == "" {
		return login, ""
	}
	return login[:i], domain
}

// addressKey is a sub-key for a sender of whom nothing but the address is known.
func addressKey(ip netip.Addr) string {
	if !ip.IsValid() {
		return "no address"
	}
	return plainAddr(ip).String()
}

// identifyLoopback is for SMTP from this host without AUTH.
func identifyLoopback(s *Submission, o *Origin, m *AccountMap) Identity {
	id := Identity{Source: SourceLocal}
	client := "client socket " + netip.AddrPortFrom(plainAddr(s.ClientIP), s.ClientPort).String()
	switch {
	case o.ClientKnown && (s.fromThisHost() || o.Redirected):
		shared := id.chargeUID(m, o.ClientUID)
		id.Basis = client + " belongs to uid " + strconv.FormatUint(uint64(o.ClientUID), 10) + subordinate(m, o.ClientUID)
		if o.Redirected {
			id.Basis += "; a firewall rule brought it here"
			if o.Wanted.IsValid() {
				id.Basis += ", it wanted to go to " + o.Wanted.String()
			}
		}
		if shared != "" && len(o.Chain) > 0 {
			id.sharedClient(s, o, m)
		}
	case s.LocalUser != "":
		id.chargeUser(m, s.LocalUser)
		id.Basis = client + " belongs to " + quoted(s.LocalUser) + ", says the panel"
	default:
		id.chargeUnknown(addressKey(s.ClientIP))
		id.Basis = client + ": its owner was not found"
	}
	id.markRoot()
	if exim, known := m.EximUID(); known && o.ClientKnown && o.ClientUID == exim && id.Account == AccountSystem {
		id.Source = SourceSystem // Exim handing on what it was asked about before
	}
	return id
}

// sharedClient looks at the process of a shared web user that holds the client's end of the
// connection: PHP works in the folder of the script that it runs. As for its local
// submissions that is a claim.
func (id *Identity) sharedClient(s *Submission, o *Origin, m *AccountMap) {
	below := &Origin{Chain: append(make([]Process, 1), o.Chain...)} // first is the place of sendmail
	id.Directory = CleanDirectory(o.Chain[0].WorkingDirectory)
	id.claims(s, below, m)
	if id.Directory != "" && id.DirectoryAccount == "" {
		id.DirectoryAccount = id.Account
	}
	id.Script, id.ScriptBasis = bestScript(s, below, id.Directory)
}

// markRoot marks what root sends on this host (cron, the panel) as the host's own.
// Other system users are counted, each under its own name: one may be hacked.
func (id *Identity) markRoot() {
	if id.Account == AccountSystem && id.SubKey == "user root" {
		id.Source = SourceSystem
	}
}

// identifyRelay is for SMTP from elsewhere without AUTH: an address that logged in
// lately or always may relay.
func identifyRelay(s *Submission, m *AccountMap) Identity {
	ip := plainAddr(s.ClientIP)
	id := Identity{Source: SourceRelay, ClientIP: ip}
	entry, recent := s.RecentAuth, s.RecentAuth != ""
	if !recent {
		entry, recent = m.RecentAuth(ip)
	}
	switch {
	case recent:
		id.IPClass = IPRecentAuth
		id.Basis = addressKey(ip) + " logged in lately as " + quoted(entry)
		if id.chargeEntry(m, entry) {
			return id
		}
	case setFlag(s.AlwaysRelay) || m.AlwaysRelay(ip):
		id.IPClass = IPAlwaysRelay
		id.Basis = addressKey(ip) + " may always relay"
	default:
		id.Source, id.ClientIP = SourceUnknown, netip.Addr{}
		id.Basis = "SMTP from " + addressKey(ip) + " without AUTH"
	}
	id.chargeUnknown(addressKey(ip))
	return id
}

// chargeEntry charges the account that a recent login's entry names: "sender|domain",
// an address, or a user.
func (id *Identity) chargeEntry(m *AccountMap, entry string) bool {
	if len(entry) > maxMailbox {
		return false // it may have been cut within the domain
	}
	sender, domain, _ := strings.Cut(strings.ToLower(entry), "|")
	sender, domain = strings.TrimSpace(sender), strings.TrimSpace(domain)
	var senderDomain string
	if i := strings.LastIndexByte(sender, '@'); i >= 0 {
		senderDomain = sender[i+1:]
	}
	a, ok := m.ByDomain(domain)
	own, ownOK := m.ByDomain(senderDomain)
	if !ok {
		a, ok = own, ownOK
	}
	if !ok {
		if a, ok = m.ByName(sender); a.System || m.SharedUser(a.Name) {
			ok = false
		}
	}
	if !ok {
		return false
	}
	id.charge(a)
	if ownOK && own.Name == a.Name {
		id.Mailbox = printable(sender, maxMailbox)
	}
	return true
}

// setFlag reports whether a variable of the panel's ACLs says yes.
func setFlag(v string) bool { return v != "" && v != "0" && v != "no" && v != "false" }

// identifyScript is for local submissions: scripts, and what Exim sends for an account.
func identifyScript(s *Submission, o *Origin, m *AccountMap) Identity {
	id := Identity{Source: SourceScript}
	shared := id.chargeCaller(s, m)
	id.markRoot()
	if s.EnvelopeSender == "" && id.automatic(s, o, m) {
		return id
	}
	cwd := s.WorkingDirectory
	if cwd == "" && len(o.Chain) > 1 {
		cwd = o.Chain[1].WorkingDirectory
	}
	id.Directory = CleanDirectory(cwd)
	if shared != "" {
		id.claims(s, o, m)
	}
	if id.Directory != "" && id.DirectoryAccount == "" {
		id.DirectoryAccount = id.Account
	}
	id.Script, id.ScriptBasis = bestScript(s, o, id.Directory)
	if o.Spared {
		id.Basis += "; its processes were not looked at: too many messages a second"
	}
	return id
}

// chargeCaller charges the user who called sendmail. It returns the name of a shared
// web user who is not known to act for one account.
func (id *Identity) chargeCaller(s *Submission, m *AccountMap) (shared string) {
	switch {
	case s.CallerUID >= 0 && s.CallerUID <= 1<<32-1:
		shared = id.chargeUID(m, uint32(s.CallerUID))
		id.Basis = "uid " + strconv.FormatInt(s.CallerUID, 10) + subordinate(m, uint32(s.CallerUID)) + " called sendmail"
	case s.Ident != "":
		shared = id.chargeUser(m, s.Ident)
		id.Basis = "Exim named the caller " + quoted(s.Ident) + " (its uid was not told)"
	default:
		id.chargeUnknown("no uid")
		id.Basis = "sendmail's caller was not told"
	}
	if shared == "" {
		return ""
	}
	id.Basis = "shared web user " + shared
	uid, url, _ := strings.Cut(s.VhostOwner, ":")
	n, err := strconv.ParseUint(uid, 10, 32)
	if err != nil {
		return shared
	}
	a, known := m.ByUID(uint32(n))
	if _, again := m.SharedUID(uint32(n)); !known || a.System || again {
		return shared
	}
	id.charge(a)
	id.Basis += "; the panel found the virtual host of uid " + uid + ", " + quoted(url)
	return ""
}

// automatic reports whether Exim itself submitted the message, and completes id then.
// The account stays the caller's: a user who pretends gains nothing but another limit.
func (id *Identity) automatic(s *Submission, o *Origin, m *AccountMap) bool {
	exim, known := m.EximUID()
	switch {
	case known && s.CallerUID == int64(exim):
		id.Source = SourceSystem
		id.Basis = "Exim itself with a null sender"
	case o.ParentIsExim && deliveredByExim(o.Chain, exim):
		id.Source = SourceAutomatic
		id.Basis = "auto-reply of uid " + strconv.FormatInt(s.CallerUID, 10) + ": Exim's delivery submitted it with a null sender"
	default:
		return false
	}
	return true
}

// deliveredByExim reports whether sendmail's parent is a delivery. Anybody can run "exim
// -be '${run{sendmail …}}'", and then the parent is Exim as well (seen with 4.96); but a
// delivery is the child of another Exim process, which root or Exim's user runs. Where
// the chain is too short to tell, the parent has to do.
func deliveredByExim(chain []Process, exim uint32) bool {
	if len(chain) < 3 {
		return true
	}
	privileged := func(uid uint32) bool { return uid == 0 || uid == exim }
	parent, above := &chain[1], &chain[2]
	return privileged(parent.UID) || privileged(above.UID) && above.Executable == parent.Executable
}

// claims looks at what speaks for one account when a shared web user submits: the
// working directory, the processes above, PHP's header. Anyone of its accounts can
// choose all of them, so they are written down, and only the working directory counts,
// for that directory and nothing else.
func (id *Identity) claims(s *Submission, o *Origin, m *AccountMap) {
	if a, ok := m.ByPath(id.Directory); ok {
		id.DirectoryAccount, id.Claimed = a.Name, true
		id.Basis += "; directory " + quoted(id.Directory) + " claims account " + a.Name
	}
	for i := 1; i < len(o.Chain); i++ {
		p := &o.Chain[i]
		a, ok := m.ByPath(CleanDirectory(p.ScriptFilename))
		if !ok {
			a, ok = m.ByPath(CleanDirectory(p.WorkingDirectory))
		}
		if ok && a.Name != id.DirectoryAccount {
			id.Basis += "; process " + strconv.Itoa(int(p.PID)) + " above claims account " + a.Name
			break
		}
	}
	if a, ok := headerAccount(s.PHPScript, m); ok && a.Name != id.DirectoryAccount {
		id.Basis += "; a header claims account " + a.Name
	}
}

// headerAccount is the account that PHP's header speaks of.
func headerAccount(raw string, m *AccountMap) (Account, bool) {
	c, ok := parsePHPHeader(raw)
	if !ok {
		return Account{}, false
	}
	if c.uid >= 0 {
		a, known := m.ByUID(uint32(c.uid))
		return a, known && !a.System && !m.SharedUser(a.Name)
	}
	host, _, _ := strings.Cut(strings.ToLower(c.site), "/")
	if a, known := m.ByDomain(host); known {
		return a, true
	}
	return m.ByDomain(strings.TrimPrefix(host, "www."))
}
