package policy

import (
	"net/netip"
	"strconv"
)

// Connection is an outgoing TCP connection to a mail port that did not go to this host's
// own Exim, as far as the packet monitor saw it. It is what a [Submission] of
// [SourceDirect] has instead of a message. Every text in its processes is a stranger's.
type Connection struct {
	// Seen names the source that saw it: "ebpf", "packet" or "poll".
	Seen string
	// Local is this host's end. Its port is 0, or all of it invalid, where the source was
	// not told: a socket may have no port yet when it begins to connect.
	Local netip.AddrPort
	// Remote is where the process wanted to go.
	Remote netip.AddrPort
	// UID owns the socket, by the kernel's word. Without UIDKnown it is not known any more
	// whose it was, and it is nobody's: never root's.
	UID      uint32
	UIDKnown bool
	// Elsewhere: it was made in another network namespace, such as a container of this host:
	// the uid may be somebody else's there, so it is not told.
	Elsewhere bool
	// Chain is the process that connected and its parents, nearest first; empty where it was
	// gone before it could be looked at.
	Chain []Process
	// Cgroup is the control group of that process, as /proc/PID/cgroup has it; "" if unknown.
	Cgroup string
	// Outcome is what became of it while it was looked at.
	Outcome Outcome
	// Basis says in words how uid and process were found, and what could not be.
	Basis string
}

// Outcome is what became of a connection attempt.
type Outcome uint8

// The outcomes.
const (
	OutcomeUnknown     Outcome = iota // the source does not see it
	OutcomeEstablished                // the other end answered
	OutcomeRefused                    // refused by the destination, or by a firewall on the way, this host's included
	OutcomeUnanswered                 // no answer while it was looked at
)

var outcomeNames = [...]string{"unknown", "established", "refused", "unanswered"}

func (o Outcome) String() string { return name(outcomeNames[:], int(o)) }

// ParseOutcome is the inverse of String.
func ParseOutcome(s string) (Outcome, bool) {
	i, ok := parse(outcomeNames[:], s)
	return Outcome(i), ok
}

// IdentifyConnection says whose connection c is, by the kernel's word alone: the uid that
// owns its socket. The process and its directory are evidence, and what a shared web user's
// processes say of an account is a claim, as it is for mail.
func IdentifyConnection(c *Connection, m *AccountMap) Identity {
	if m == nil {
		m = NewAccountMap(AccountMapInput{})
	}
	id := Identity{Source: SourceDirect, Basis: printable(c.Basis, maxBasis)}
	o := &Origin{Chain: append(make([]Process, 1, 1+len(c.Chain)), c.Chain...)} // first is the place of sendmail
	if len(c.Chain) > 0 {
		id.Directory = CleanDirectory(c.Chain[0].WorkingDirectory)
	}
	if !c.UIDKnown {
		id.chargeUnknown("connections of nobody known")
		if c.Elsewhere {
			id.SubKey = "connections of other network namespaces"
		}
		id.Directory = ""
		return id
	}
	s := &Submission{CallerUID: int64(c.UID), Direct: c}
	if whose := subordinate(m, c.UID); whose != "" {
		id.Basis = joinBasis(id.Basis, "uid "+strconv.FormatUint(uint64(c.UID), 10)+whose)
	}
	if shared := id.chargeUID(m, c.UID); shared != "" {
		id.Basis = joinBasis(id.Basis, "shared web user "+shared)
		id.claims(s, o, m)
	}
	if id.Directory != "" && id.DirectoryAccount == "" {
		id.DirectoryAccount = id.Account
	}
	id.Script, id.ScriptBasis = bestScript(s, o, id.Directory)
	id.Basis = cutText(id.Basis, maxBasis)
	return id
}

func joinBasis(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}
