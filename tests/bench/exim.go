package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	eximacl "osm/exim-acl"
	"osm/tests/lab"
)

// nativeRatelimit is what Exim can do by itself: one counter in its hints database.
const nativeRatelimit = `
  warn
    ratelimit = 1000000 / 1h / per_mail / strict / ${if def:authenticated_id{$authenticated_id}{$originator_uid}}
`

// variant is one way for Exim to treat outgoing mail.
type variant struct {
	name, acl string
}

// exim measures whole submissions through the real Exim, spool on tmpfs, nothing
// delivered: what an operator would see.
func (b *bench) exim() ([]figure, error) {
	if err := b.prepareExim(); err != nil {
		return nil, err
	}
	defer b.l.StopExim() // set-uid: it does not end with us
	echo, cmd, err := b.startEcho()
	if err != nil {
		return nil, err
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	osmd, d, err := b.daemon("exim")
	if err != nil {
		return nil, err
	}
	defer d.Stop()
	guard := func(socket string) string {
		return eximacl.ACLText(eximacl.ACLParams{Socket: socket, EximUID: uint32(b.l.EximUID)})
	}
	variants := []variant{
		{"unguarded", ""}, {"ratelimit", nativeRatelimit}, {"echo", guard(echo.socket)}, {"osm", guard(osmd.socket)},
	}
	smtp, sendmail := map[string]sample{}, map[string]sample{}
	for round := range b.o.rounds {
		for i := range variants {
			v := variants[(i+round)%len(variants)]
			if err := b.l.SetACL(v.acl); err != nil {
				return nil, err
			}
			r, err := b.rate(8, b.smtpMessage)
			if err != nil {
				return nil, fmt.Errorf("%s, SMTP: %w", v.name, err)
			}
			smtp[v.name] = append(smtp[v.name], r)
			if r, err = b.rate(4, b.sendmailMessage); err != nil {
				return nil, fmt.Errorf("%s, sendmail: %w", v.name, err)
			}
			sendmail[v.name] = append(sendmail[v.name], r)
			if err := b.emptySpool(); err != nil {
				return nil, err
			}
		}
	}
	return []figure{
		{"unguarded Exim: messages/s, 8 SMTP clients", "-", smtp["unguarded"], "/s", "", 0, false},
		{"Exim's rate, 8 SMTP clients", "Exim asking a trivial responder", ratios(smtp["osm"], smtp["echo"]), "", "≥ 0.95", 0.95, false},
		{"Exim's rate, sendmail 4 at a time", "Exim asking a trivial responder", ratios(sendmail["osm"], sendmail["echo"]), "", "≥ 0.95", 0.95, false},
		{"Exim's rate, 8 SMTP clients", "unguarded Exim", ratios(smtp["osm"], smtp["unguarded"]), "", "", 0, false},
		{"Exim's rate, sendmail 4 at a time", "unguarded Exim", ratios(sendmail["osm"], sendmail["unguarded"]), "", "", 0, false},
		{"Exim's rate, 8 SMTP clients", "native ratelimit", ratios(smtp["osm"], smtp["ratelimit"]), "", "", 0, false},
		{"Exim's rate, sendmail 4 at a time", "native ratelimit", ratios(sendmail["osm"], sendmail["ratelimit"]), "", "", 0, false},
	}, nil
}

func (b *bench) prepareExim() error {
	if b.l == nil {
		l, err := lab.New(lab.Options{Dir: b.dir, FirstUID: benchUID, Accounts: []string{"shop"}, TmpfsSpool: true, QueueOnly: true})
		if err != nil {
			return err
		}
		b.l = l
	}
	if b.passwd != nil { // Exim reads it from the start for each user
		if err := b.panel(0); err != nil {
			return err
		}
	}
	b.l.Panel, b.l.QueueOnly = "", true
	return b.l.StartExim()
}

// emptySpool forgets the accepted messages, so that each measurement begins alike.
func (b *bench) emptySpool() error {
	for _, d := range []string{"/input", "/msglog"} {
		if err := os.RemoveAll(b.l.Spool + d); err != nil {
			return err
		}
	}
	return nil
}

// rate is how many messages a second so many clients submit, each on a new connection.
func (b *bench) rate(clients int, send func(context.Context) error) (float64, error) {
	limit := time.Duration(b.o.seconds * float64(time.Second))
	ctx, cancel := context.WithTimeout(context.Background(), limit+20*time.Second)
	defer cancel()
	var sent atomic.Int64
	var failed atomic.Pointer[error]
	start := time.Now()
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for time.Since(start) < limit && failed.Load() == nil {
				if err := send(ctx); err != nil {
					failed.Store(&err)
					return
				}
				sent.Add(1)
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(sent.Load()) / time.Since(start).Seconds(), nil
}

func benchMail() lab.Mail {
	return lab.Mail{From: "info@shop.example", To: []string{"reader@elsewhere.example"}, Subject: "Your order 1234 is on its way"}
}

func (b *bench) smtpMessage(ctx context.Context) error {
	login, password := b.l.Login("shop")
	return b.l.SendSMTP(ctx, login, password, benchMail())
}

func (b *bench) sendmailMessage(ctx context.Context) error {
	return b.l.Sendmail(ctx, "shop", b.l.HomeOf("shop"), benchMail())
}
