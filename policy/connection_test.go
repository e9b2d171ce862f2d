package policy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// counting is a trigger of the back door.
func counting(name string, w Watch, max int64) Trigger {
	t := enforcing(name, w, max, Connections)
	t.Verdict = Accept
	return t
}

// connecting is a connection of uid 1001, whose process works in dir.
func connecting(to, dir string) *Submission {
	c := &Connection{Seen: "ebpf", Remote: netip.MustParseAddrPort(to), UID: 1001, UIDKnown: true, Basis: "ebpf: uid 1001 connected",
		Chain: []Process{{PID: 40, UID: 1001, Executable: "/usr/bin/perl", WorkingDirectory: dir, Args: []string{"perl", "mailer.pl"}}}}
	return &Submission{CallerUID: -1, Direct: c}
}

func ofShop(s *Submission) Identity {
	m := NewAccountMap(AccountMapInput{Accounts: []Account{{Name: "shop", UID: 1001, Home: "/home/shop"}, {Name: "bakery", UID: 1002, Home: "/home/bakery"}},
		SharedUsers: []string{"nobody"}})
	return IdentifyConnection(s.Direct, m)
}

func TestWhoseAConnectionIs(t *testing.T) {
	m := NewAccountMap(AccountMapInput{
		Accounts:    []Account{{Name: "shop", UID: 1001, Home: "/home/shop"}, {Name: "nobody", UID: 99, System: true}, {Name: "list", UID: 38, System: true}},
		SubUIDs:     []SubUIDs{{"shop", 100_000, 65_536}},
		SharedUsers: []string{"nobody"},
	})
	in := func(uid uint32, known bool, dir string) *Connection {
		c := &Connection{UID: uid, UIDKnown: known, Basis: "seen"}
		if dir != "" {
			c.Chain = []Process{{PID: 7, UID: uid, Executable: "/usr/bin/php", Args: []string{"php", "send.php"}, WorkingDirectory: dir}}
		}
		return c
	}
	tests := []struct {
		name                                 string
		c                                    *Connection
		account, sub, dir, dirAccount, basis string
		claimed                              bool
	}{
		{"an account's", in(1001, true, "/home/shop/www"), "shop", "", "/home/shop/www", "shop", "seen", false},
		{"an account's whose process was gone", in(1001, true, ""), "shop", "", "", "", "seen", false},
		{"an account's in a neighbour's folder stays its own", in(1001, true, "/tmp"), "shop", "", "/tmp", "shop", "seen", false},
		{"nobody known's, and uid 0 is not root then", in(0, false, "/home/shop"), AccountUnknown, "connections of nobody known", "", "", "seen", false},
		{"of a container", &Connection{Elsewhere: true, Basis: "seen", Chain: []Process{{WorkingDirectory: "/home/shop"}}}, AccountUnknown, "connections of other network namespaces", "", "", "seen", false},
		{"root's", in(0, true, "/root"), AccountSystem, "user root", "/root", AccountSystem, "seen", false},
		{"a system user's", in(38, true, ""), AccountSystem, "user list", "", "", "seen", false},
		{"of a uid without a name", in(4711, true, ""), AccountUnknown, "uid 4711", "", "", "seen", false},
		{"of a uid subordinate to an account", in(100_033, true, "/home/shop/www"), "shop", "", "/home/shop/www", "shop", "seen; uid 100033 (subordinate to shop)", false},
		{"a shared web user's is claimed by its folder", in(99, true, "/home/shop/www"), SharedAccount("nobody"), "", "/home/shop/www", "shop", "claims account shop", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			id := IdentifyConnection(tt.c, m)
			if id.Account != tt.account || id.SubKey != tt.sub || id.Directory != tt.dir || id.DirectoryAccount != tt.dirAccount || id.Claimed != tt.claimed || id.Source != SourceDirect {
				t.Errorf("IdentifyConnection = %+v, want account %q (%q), directory %q of %q, claimed %v", id, tt.account, tt.sub, tt.dir, tt.dirAccount, tt.claimed)
			}
			if !strings.Contains(id.Basis, tt.basis) {
				t.Errorf("basis = %q, want %q in it", id.Basis, tt.basis)
			}
			if want := "/send.php"; tt.dir != "" && id.Script != tt.dir+want {
				t.Errorf("script = %q, want %q", id.Script, tt.dir+want)
			}
		})
	}
}

func TestConnectionsAreCountedByTheirOwnTriggersAlone(t *testing.T) {
	e := newTestEngine(t, rulesOf(counting("direct", WatchDirect, 2), counting("direct-directory", WatchDirectDirectory, 1),
		enforcing("account", WatchAccount, 5, Messages), enforcing("scripts", WatchScripts, 5, Messages), enforcing("directory", WatchDirectory, 5, Messages)))
	s := connecting("192.0.2.1:25", "/home/shop/www")
	var over []string
	for range 4 {
		d := e.Check(noon(), s, ofShop(s))
		if d.Verdict != Accept || !d.Counted {
			t.Fatalf("verdict %s, counted %v: a connection has happened", d.Verdict, d.Counted)
		}
		names := ""
		for _, o := range d.Over {
			names += o.Trigger + " "
		}
		over = append(over, names)
	}
	if want := []string{"", "direct-directory ", "direct direct-directory ", "direct direct-directory "}; !slices.Equal(over, want) {
		t.Errorf("over = %q, want %q", over, want)
	}
	for trigger, want := range map[string]int64{"direct": 4, "direct-directory": 4, "account": 0, "scripts": 0, "directory": 0} {
		if got := usedBy(e, noon(), trigger, "shop"); got != want {
			t.Errorf("%s has used %d, want %d", trigger, got, want)
		}
	}
	m, id := fromScript("shop", "/home/shop/www", "x", 1)
	if d := e.Check(noon(), m, id); d.Verdict != Accept || len(d.Over) != 0 {
		t.Errorf("mail is %s, over %v, for connections that were over", d.Verdict, d.Over)
	}
	if got := usedBy(e, noon(), "direct", "shop"); got != 4 {
		t.Errorf("direct has used %d after a message, want 4", got)
	}
}

func TestAnAllowedDestinationIsNotCounted(t *testing.T) {
	r := rulesOf(counting("direct", WatchDirect, 0))
	r.Exemptions = []Exemption{
		{Scope: ScopeDestination, Account: "shop", Value: "192.0.2.0/24"},
		{Scope: ScopeDestination, Account: "bakery", Value: "198.51.100.0/24"},
		{Scope: ScopeDestination, Value: "2001:db8::/32"},
		{Scope: ScopeDestination, Value: "203.0.113.9", Until: noon().Wall},
	}
	e := newTestEngine(t, r)
	for to, allowed := range map[string]bool{
		"192.0.2.7:587": true, "[2001:db8::1]:25": true, "[::ffff:192.0.2.7]:25": true,
		"198.51.100.1:25": false, "203.0.113.9:25": false,
	} {
		s := connecting(to, "/home/shop")
		if d := e.Check(noon(), s, ofShop(s)); (d.Reason == ReasonExempt) != allowed || d.Counted == allowed {
			t.Errorf("to %s: %s, counted %v, want it allowed: %v", to, d.Reason, d.Counted, allowed)
		}
	}
	if got := usedBy(e, noon(), "direct", "shop"); got != 2 {
		t.Errorf("direct has used %d, want the 2 to places that are not allowed", got)
	}
	if hits := e.ExemptionHits(); hits[0].Hits != 2 || hits[2].Hits != 1 {
		t.Errorf("hits = %+v, want 2 and 1", hits)
	}
}

func TestAHoldDoesNotStopAConnectionAndIsShown(t *testing.T) {
	r := rulesOf(counting("direct", WatchDirect, 0))
	r.Holds = []Hold{{ID: 12, Scope: ScopeAccount, Account: "shop"}}
	s := connecting("192.0.2.1:25", "/home/shop")
	d := newTestEngine(t, r).Check(noon(), s, ofShop(s))
	if d.Verdict != Accept || !d.Counted || d.HoldID != 12 || len(d.Over) != 1 {
		t.Errorf("decision = %s, counted %v, hold %d, over %v: want it accepted, counted, over, and hold 12 named", d.Verdict, d.Counted, d.HoldID, d.Over)
	}
}

func TestAVerdictForAllTriggersStopsNoConnection(t *testing.T) {
	r := rulesOf(counting("direct", WatchDirect, 0))
	r.Overrides = []Override{{Level: LevelAccount, Name: "shop", Verdict: ptr(Deny)}}
	e := newTestEngine(t, r)
	s := connecting("192.0.2.1:25", "/home/shop")
	for range 3 {
		if d := e.Check(noon(), s, ofShop(s)); d.Verdict != Accept || !d.Counted || d.Over[0].Verdict != Accept {
			t.Fatalf("decision = %+v, want it accepted and counted", d)
		}
	}
}

func TestConnectionsAfterARestartAreCountedAgain(t *testing.T) {
	e := newTestEngine(t, rulesOf(counting("direct", WatchDirect, 9), counting("direct-directory", WatchDirectDirectory, 9)))
	s := connecting("192.0.2.1:25", "/home/shop/www")
	e.ReplayStored(noon(), 1, ofShop(s), "", 0, nil)
	for _, trigger := range []string{"direct", "direct-directory"} {
		if got := usedBy(e, noon(), trigger, "shop"); got != 1 {
			t.Errorf("%s has used %d, want 1", trigger, got)
		}
	}
}

func TestOneEventForConnectionsPastTheLimit(t *testing.T) {
	e := newTestEngine(t, rulesOf(counting("direct-directory", WatchDirectDirectory, 1)))
	var last int64
	tracker := NewTracker(func() int64 { last++; return last }, 0)
	s := connecting("192.0.2.1:25", "/home/shop/www")
	var raised []Event
	for range 4 {
		for _, c := range tracker.Add(e.Check(noon(), s, ofShop(s))) {
			if c.New {
				raised = append(raised, c.Event)
			}
		}
	}
	if len(raised) != 1 || raised[0].Key != "shop /home/shop/www" || raised[0].Used != 1 || raised[0].Count != Connections {
		t.Fatalf("events = %+v, want one at the second connection", raised)
	}
	if h, why := Culprit(&raised[0]); why != "" || h.Scope != ScopeDirectory || h.Value != "/home/shop/www" {
		t.Errorf("Culprit = %+v, %q, want the directory", h, why)
	}
}
