package main

import (
	"context"
	"fmt"
	"path/filepath"

	"osm/tests/lab"
)

// role is one account of the demo: what it does, and how it should be treated.
type role struct {
	account string
	about   string
	play    func(ctx context.Context, l *lab.Lab) error
	sends   int // messages it offers
	arrive  int // messages that should reach the sink
	held    int // messages that should wait frozen in the queue
	why     string
}

// The numbers of the demo's triggers, see demoConfig.
const (
	directoryMax = 100 // messages per hour from one directory
	loginMax     = 200 // recipients per hour by one mailbox
)

func cast() []role {
	return []role{
		{"shop", "an online shop confirms its orders (PHP mail())", shop, 40, 40, 0,
			"within every limit, although all Subjects look alike"},
		{"journal", "a newsletter, its limit raised to 5,000 until a date (SMTP AUTH, 50 recipients each)", newsletter, 10, 10, 0,
			"500 recipients: over the usual 300, within the raised limit"},
		{"hacked", "a hacked contact form sends spam (PHP mail()), and some visitors' questions", hacked, 250 + 5 + 5, directoryMax + 5, 150 + 5,
			fmt.Sprintf("exactly %d of the directory pass; the site's booking page goes on", directoryMax)},
		{"stolen", "a stolen mailbox password (SMTP AUTH, 10 recipients each)", stolen, 40 + 5, loginMax/10 + 5, 20,
			fmt.Sprintf("exactly %d recipients pass; the account's shop script goes on", loginMax)},
		{"form", "a contact form run by the shared web user www-data", form, 15, 15, 0,
			"counted for (shared:www-data) and for its directory, for no account"},
		{"forward", "a mailbox that forwards all it gets to another provider", forward, 120, 120, 0,
			"forwarded mail is not this account's sending: not counted, not stopped"},
	}
}

func to(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("reader%d@elsewhere.example", i)
	}
	return out
}

// php sends n messages one after the other from a folder below public_html.
func php(ctx context.Context, l *lab.Lab, account, folder, subject string, n int) error {
	dir := filepath.Join(l.HomeOf(account), "public_html", folder)
	m := lab.Mail{From: "web@" + l.Domain(account), To: to(1), Subject: subject}
	sent, err := l.PHP(ctx, account, dir, n, m)
	if err == nil && sent != n {
		err = fmt.Errorf("mail() said false for %d of %d messages: a script was told of a failure", n-sent, n)
	}
	return err
}

func shop(ctx context.Context, l *lab.Lab) error {
	return php(ctx, l, "shop", "", "Your order 10%d is on its way", 40)
}

func mailbox(ctx context.Context, l *lab.Lab, account, subject string, n, recipients int) error {
	login, password := l.Login(account)
	s, err := l.Dial(ctx, lab.StrangerIP, login, password)
	if err != nil {
		return err
	}
	defer s.Close()
	for i := range n {
		m := lab.Mail{From: login, To: to(recipients), Subject: fmt.Sprintf(subject, i)}
		if err := s.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func newsletter(ctx context.Context, l *lab.Lab) error {
	return mailbox(ctx, l, "journal", "November news, part %d", 10, 50)
}

// question is the Subject of the mail that should not have been stopped: it came from the
// same folder.
const question = "A question from your site"

func hacked(ctx context.Context, l *lab.Lab) error {
	for _, s := range []struct {
		folder, subject string
		n               int
	}{
		{"wp-content/plugins/contact-form", "You have won, number %d", 250},
		{"wp-content/plugins/contact-form", question, 5},
		{"booking", "Your booking", 5},
	} {
		if err := php(ctx, l, "hacked", s.folder, s.subject, s.n); err != nil {
			return err
		}
	}
	return connectPast(ctx, l)
}

func stolen(ctx context.Context, l *lab.Lab) error {
	if err := mailbox(ctx, l, "stolen", "Invoice %d overdue", 40, 10); err != nil {
		return err
	}
	return php(ctx, l, "stolen", "shop", "Order 77%d received", 5)
}

func form(ctx context.Context, l *lab.Lab) error {
	dir := filepath.Join(l.HomeOf("form"), "public_html")
	if err := l.WriteFile("form", filepath.Join(dir, "send.php"), lab.MailScript); err != nil {
		return err
	}
	m := lab.Mail{From: "www@form.example", To: to(1), Subject: "Contact request"}
	sent, err := l.PHP(ctx, "www-data", dir, 15, m)
	if err == nil && sent != 15 {
		err = fmt.Errorf("mail() said true for %d of 15 messages", sent)
	}
	return err
}

func forward(ctx context.Context, l *lab.Lab) error {
	if err := l.WriteFile("forward", filepath.Join(l.HomeOf("forward"), ".forward"), "boss@elsewhere.example\n"); err != nil {
		return err
	}
	// From an address that may not relay, as any stranger's server.
	s, err := l.Dial(ctx, lab.StrangerIP, "", "")
	if err != nil {
		return err
	}
	defer s.Close()
	for i := range 120 {
		m := lab.Mail{From: "stranger@far.example", To: []string{"boss@forward.example"}, Subject: fmt.Sprintf("To be forwarded %d", i)}
		if err := s.Send(m); err != nil {
			return err
		}
	}
	return nil
}
