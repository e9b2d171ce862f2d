package policy

import (
	"net/netip"
	"time"
)

// Moment is one reading of both clocks.
//
// Windows run on Boot, so that a step of the wall clock neither frees nor holds
// anybody; Wall is what people are shown and what is stored.
type Moment struct {
	Wall time.Time // UTC, millisecond resolution
	Boot int64     // milliseconds of CLOCK_BOOTTIME plus [BootShift]
}

// BootShift is added to every reading of the boot-time clock, in milliseconds (100
// days), so that what was sent before the last boot still has a positive time.
const BootShift = 100 * 24 * 3600 * 1000

// Add returns the moment d later on both clocks.
func (m Moment) Add(d time.Duration) Moment {
	return Moment{Wall: m.Wall.Add(d), Boot: m.Boot + d.Milliseconds()}
}

// Submission is one message offered for sending, as far as the front-end was told.
// Every text in it is a stranger's: bounded by the front-end, never trusted.
type Submission struct {
	MessageID string // Exim's message id: 16 or, from 4.97, 23 characters
	Protocol  string // $received_protocol: local, local-esmtp, esmtp, esmtpsa, …
	CallerUID int64  // $originator_uid; -1 when not told

	ClientIP   netip.Addr // invalid for a local submission
	ClientPort uint16
	LocalIP    netip.Addr
	LocalPort  uint16

	Size          int64  // bytes, without the headers Exim adds
	Recipients    int    // $recipients_count, the number that is counted
	RecipientList string // $recipients, "a, b, c", cut by the front-end
	RecipientsCut bool   // RecipientList is not the whole list

	WorkingDirectory string // $initial_cwd
	Ident            string // $sender_ident
	AuthenticatedID  string // $authenticated_id; a login name for local submissions too
	Authenticator    string // $sender_host_authenticated; not empty only after SMTP AUTH
	HELO             string
	EnvelopeSender   string // empty is the null sender
	HeaderFrom       string // raw
	Subject          string // raw, as in the message
	PHPScript        string // X-PHP-Originating-Script or X-PHP-Script: a claim

	// What cPanel's own ACLs found; empty elsewhere.
	LocalUser   string // $acl_c_authenticated_local_user
	VhostOwner  string // $acl_c_vhost_owner, "uid:url"
	RecentAuth  string // $acl_c_recent_authed_mail_ips_text_entry, "sender|domain"
	AlwaysRelay string // $acl_c_alwaysrelay

	// Direct is the connection that bypassed Exim; nil for a message. All else is empty then,
	// but CallerUID, which is -1.
	Direct *Connection
}

// Local reports whether the message came without SMTP from a remote or loopback
// address: from sendmail, or from exim -bs run by a local user.
func (s *Submission) Local() bool { return !s.ClientIP.IsValid() && s.Direct == nil }

// Process is what the kernel said of a process at the moment of submission.
type Process struct {
	PID              int32
	UID              uint32
	Executable       string // resolved /proc/PID/exe
	WorkingDirectory string
	Args             []string
	Started          int64 // clock ticks since boot, to recognise a reused pid
	// The CGI environment of the process as far as [Process.Environment] names it.
	ScriptFilename, RemoteAddr, RequestURI, ServerName, HTTPHost string
}

// Origin is the kernel's word on who submitted a message.
type Origin struct {
	// Client is the owner of the client's end of a loopback SMTP connection.
	ClientUID   uint32
	ClientKnown bool
	// Redirected: a firewall rule of this host brought the client here, which wanted to go to
	// Wanted, invalid if that is not known.
	Redirected bool
	Wanted     netip.AddrPort
	// Chain is the peer of the policy socket and its parents, nearest first, as far
	// as the inspector was reachable; empty otherwise. For SMTP from this host by a
	// shared web user it begins with the process that holds the client's end.
	Chain []Process
	// Spared: the processes were not looked at, because they would have been evidence alone
	// and the sender sends too fast.
	Spared bool
	// ParentIsExim: the peer's parent runs Exim's own executable (same inode).
	ParentIsExim bool
}

// Source says by which way a message was submitted.
type Source uint8

// The sources, in the order in which design section 4 looks for them.
const (
	SourceUnknown   Source = iota
	SourceLogin            // SMTP AUTH
	SourceLocal            // SMTP from this host without AUTH
	SourceRelay            // an address that logged in lately or always may relay
	SourceScript           // local submission
	SourceAutomatic        // an auto-reply: the peer's parent is Exim, the sender is null
	SourceSystem           // the panel's own service logins
	SourceDirect           // a connection that bypassed Exim (the back door's source)
)

var sourceNames = [...]string{"unknown", "login", "local", "relay", "script", "automatic", "system", "direct"}

func (s Source) String() string { return name(sourceNames[:], int(s)) }

// ParseSource is the inverse of String; ok is false for an unknown name.
func ParseSource(s string) (Source, bool) { i, ok := parse(sourceNames[:], s); return Source(i), ok }

// IPClass says why an address may send through us.
type IPClass uint8

// The classes of client addresses, each counted apart.
const (
	IPNone        IPClass = iota
	IPLogin               // after SMTP AUTH
	IPRecentAuth          // logged in lately (POP before SMTP)
	IPAlwaysRelay         // listed by the administrator
)

var ipClassNames = [...]string{"", "login", "recent-auth", "always-relay"}

func (c IPClass) String() string { return name(ipClassNames[:], int(c)) }

// CountedNet is the network whose addresses have one counter together: an IPv4 address
// alone, an IPv6 address with its /64. It is invalid if a is.
func CountedNet(a netip.Addr) netip.Prefix {
	a = plainAddr(a)
	p, _ := a.Prefix(min(a.BitLen(), 64)) // an address that is invalid has no bits
	return p
}

// Accounts with a name of their own: no panel user can be called so.
const (
	AccountUnknown = "(unknown)"
	AccountSystem  = "(system)"
)

// SharedAccount is the account that messages of a shared web user are charged to.
func SharedAccount(user string) string { return "(shared:" + user + ")" }

// Identity says whose message it is and on what grounds. Account is never empty.
type Identity struct {
	Account string
	Mailbox string // "user@domain", lower case; only after SMTP AUTH or recent-auth
	Source  Source
	Basis   string // one line for people: what the attribution rests on, with any claim
	// SubKey names who it was within (unknown): "uid 1234" or an address.
	SubKey string

	ClientIP netip.Addr // the address to count, invalid if none
	IPClass  IPClass

	// Directory is the clean absolute working directory of a script, "" if none.
	Directory string
	// DirectoryAccount is the account whose directory it is: the account itself, or
	// for a shared web user the claimed one (it counts in directory triggers alone).
	DirectoryAccount string
	// Claimed is true when DirectoryAccount rests on a claim: it may freeze that
	// directory, never an account, and starts no action on one.
	Claimed bool

	Script      string // best evidence of the script file: a hint, never billed
	ScriptBasis string

	// The account's place in the panel, for inheritance of limits.
	Reseller, Package string
}

// Unit is what a trigger counts.
type Unit uint8

// The units.
const (
	Recipients Unit = iota
	Messages
	Connections // of the back door, and of nothing else
)

var unitNames = [...]string{"recipients", "messages", "connections"}

func (u Unit) String() string { return name(unitNames[:], int(u)) }

// ParseUnit is the inverse of String.
func ParseUnit(s string) (Unit, bool) { i, ok := parse(unitNames[:], s); return Unit(i), ok }

func name(names []string, i int) string {
	if i < 0 || i >= len(names) {
		return "?"
	}
	return names[i]
}

func parse(names []string, s string) (int, bool) {
	for i, n := range names {
		if n == s && n != "" {
			return i, true
		}
	}
	return 0, false
}
