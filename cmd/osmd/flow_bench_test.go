package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"osm/counters"
	eximacl "osm/exim-acl"
	"osm/internal/config"
	"osm/internal/metrics"
	"osm/internal/origin"
	"osm/internal/panel"
	"osm/policy"
)

// BenchmarkFlow is everything that happens to a question but the socket and the database:
// read, identified, judged by five counters, answered, written into figures and events.
func BenchmarkFlow(b *testing.B) {
	const accounts = 10_000
	f := benchFlow(b, accounts)
	requests := make([][]byte, accounts)
	for i := range requests {
		requests[i] = eximacl.AppendRequest(nil, benchSubmission(i*7919%accounts))
	}
	var answer [eximacl.MaxAnswer]byte
	var next atomic.Int64
	b.ReportAllocs()
	for b.Loop() {
		s, err := eximacl.ParseRequest(requests[next.Add(1)%accounts])
		if err != nil {
			b.Fatal(err)
		}
		d := f.check(eximacl.Conn{}, s)
		eximacl.AppendAnswer(answer[:0], eximacl.Answer{Action: d.Verdict, Ref: d.Ref, Log: d.Log, Text: d.Text})
		f.done(d)
	}
}

func benchFlow(b *testing.B, accounts int) *flow {
	b.Helper()
	var passwd strings.Builder
	domains := map[string]string{}
	for i := range accounts {
		fmt.Fprintf(&passwd, "u%d:x:%d:%d::/home/u%d:/bin/false\n", i, 100000+i, 100000+i, i)
		domains[fmt.Sprintf("d%d.example", i)] = fmt.Sprintf("u%d", i)
	}
	root := b.TempDir()
	if err := os.Mkdir(root+"/etc", 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(root+"/etc/passwd", []byte(passwd.String()), 0o644); err != nil {
		b.Fatal(err)
	}
	cfg := config.Default()
	rules := cfg.Rules()
	for i := range rules.Triggers {
		rules.Triggers[i].Max, rules.Triggers[i].Mode = 1<<40, policy.Enforce
	}
	figures := metrics.New()
	tracker := policy.NewTracker(func() int64 { return 1 }, 0)
	f := &flow{
		clock: origin.Clock(), engine: policy.NewEngine(counters.New(counters.Options{}), rules),
		panel:   panel.New(panel.Options{Root: root, Source: panel.Passwd, Domains: domains, Now: time.Now, Log: slog.New(slog.DiscardHandler)}),
		metrics: figures, decided: countersOf(figures), log: slog.New(slog.DiscardHandler),
		record: func(d *policy.Decision) { tracker.Add(d) },
	}
	f.ready.Store(true)
	return f
}

func benchSubmission(i int) *policy.Submission {
	mailbox := fmt.Sprintf("info@d%d.example", i)
	return &policy.Submission{
		MessageID: fmt.Sprintf("1vN3xQ-%06d-2F", i), Protocol: "esmtpa", CallerUID: 102, Size: 2300, Recipients: 1,
		ClientIP: netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), ClientPort: 40000,
		LocalIP: netip.MustParseAddr("192.0.2.1"), LocalPort: 587, RecipientList: "reader@elsewhere.example",
		WorkingDirectory: "/var/spool/exim4", AuthenticatedID: mailbox, Authenticator: "plain", HELO: "client.example",
		EnvelopeSender: mailbox, HeaderFrom: "Shop <info@shop.example>", Subject: " Your order 1234 is on its way\n",
	}
}
