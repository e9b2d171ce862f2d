package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os/user"
	"strconv"

	"github.com/urfave/cli/v2"

	"osm/internal/control"
	"osm/internal/webfront"
)

func (e *env) webCommands() []*cli.Command {
	where := func() []cli.Flag {
		return []cli.Flag{
			&cli.StringFlag{Name: "listen", Value: webfront.DefaultListen, EnvVars: []string{"OSM_WEB_LISTEN"}, Usage: "serve on this loopback `ADDRESS`"},
			&cli.StringFlag{Name: "public-url", EnvVars: []string{"OSM_WEB_PUBLIC_URL"}, Usage: "a web server with TLS makes the page reachable as `URL`, such as https://mail.example/osm"},
		}
	}
	web := command("web", "", "serve the page to a browser, on a host without WHM",
		`It listens on a loopback address only and prints a link that lets one browser in, once, within
ten minutes. From elsewhere it is reached by a tunnel (ssh -L 8025:127.0.0.1:8025 HOST) or
behind a web server with TLS, which --public-url names. A login ends after an hour without
use, after twelve hours, and when this program ends.

Run by root it lets in operators and resellers, and every change is written down under their
own names. Run by a member of osm-admin it is for operators, and changes are that member's.`,
		0, 0, append(where(), &cli.BoolFlag{Name: "no-link", Usage: "print no link; osmctl web link makes one"}), e.web)
	web.Subcommands = []*cli.Command{
		command("link", "", "make a one-time link into the page that osmctl web serves",
			`Whoever opens it and presses the button is logged in as NAME, which stands in the audit, and as
an operator, or as the reseller for his own accounts. It holds for ten minutes.`,
			0, 0, append(where(),
				&cli.StringFlag{Name: "user", Usage: "log in as `NAME` (default: who runs this; of a reseller's link the reseller)"},
				&cli.StringFlag{Name: "reseller", Usage: "for the accounts of this reseller, `NAME`"}), e.webLink),
	}
	return []*cli.Command{web}
}

// webAddress reads --public-url and --listen.
func webAddress(c *cli.Context) (public *url.URL, listen string, err error) {
	if s := c.String("public-url"); s != "" {
		if public, err = webfront.ParsePublic(s); err != nil {
			return nil, "", usageError{err.Error()}
		}
	}
	at, err := webfront.ParseListen(c.String("listen"))
	if err != nil {
		return nil, "", usageError{err.Error()}
	}
	return public, at.String(), nil
}

// webPage is what osmctl web prints with --json.
type webPage struct {
	Listen string  `json:"listen"`
	URL    string  `json:"url"`
	Link   *oneWay `json:"link,omitempty"`
}

// oneWay is a link as it is printed.
type oneWay struct {
	URL       string       `json:"url"`
	ExpiresAt control.Time `json:"expires_at"`
	User      string       `json:"user"`
	Role      control.Role `json:"role"`
	Reseller  string       `json:"reseller,omitempty"`
}

func (e *env) web(c *cli.Context) error {
	public, listen, err := webAddress(c)
	if err != nil {
		return err
	}
	client := e.client(c)
	defer client.Close()
	front, err := webfront.New(webfront.Options{
		Socket: c.String("socket"), Public: public, Asserts: e.uid == 0, Self: e.self(), Redeem: client.RedeemLoginLink,
		Now: e.now, Log: slog.New(slog.NewTextHandler(e.err, nil)),
	})
	if err != nil {
		return err
	}
	l, err := webfront.Listen(listen)
	if err != nil {
		return err
	}
	page := webPage{Listen: l.Addr().String(), URL: "http://" + l.Addr().String() + "/"}
	if public != nil {
		page.URL = public.String() + "/"
	}
	var away error
	if !c.Bool("no-link") {
		page.Link, away = e.makeLink(c, client, public, page.Listen, control.LoginLink{})
	}
	if err := e.print(c, page, func() { e.sayWeb(page, away) }); err != nil {
		return errors.Join(err, l.Close())
	}
	return front.Serve(c.Context, l)
}

// sayWeb tells how to get in. That the daemon is not there yet is no reason not to wait
// for it.
func (e *env) sayWeb(page webPage, away error) {
	e.line("The page is served on %s until this program ends (Ctrl-C).", page.URL)
	switch {
	case page.Link != nil:
		e.line("\nOpen this link, once, until %s:\n\n  %s\n", e.when(page.Link.ExpiresAt), page.Link.URL)
		e.line("Another one: osmctl web link")
	case away != nil:
		e.line("There is no link yet: %s", away.Error())
		e.line("Later: osmctl web link")
	}
}

func (e *env) webLink(c *cli.Context) error {
	public, listen, err := webAddress(c)
	if err != nil {
		return err
	}
	client := e.client(c)
	defer client.Close()
	wanted := control.LoginLink{User: c.String("user"), Reseller: c.String("reseller")}
	link, err := e.makeLink(c, client, public, listen, wanted)
	if err != nil {
		return err
	}
	if err := e.print(c, link, func() {
		e.line("%s", link.URL)
		e.line("\nFor %s, once, until %s.", link.who(), e.when(link.ExpiresAt))
	}); err != nil {
		return err
	}
	if e.uid != 0 && link.Role == control.Reseller {
		fmt.Fprintln(e.err, "osmctl: a reseller's link works only where root runs osmctl web")
	}
	return nil
}

// who is for whom a link is.
func (l *oneWay) who() string {
	if l.Role == control.Reseller {
		return fmt.Sprintf("the reseller %s (as %s)", l.Reseller, l.User)
	}
	return "the operator " + l.User
}

// makeLink asks the daemon for a link. Without a name it is for who runs this, or for the
// reseller himself.
func (e *env) makeLink(c *cli.Context, client *control.Client, public *url.URL, listen string, wanted control.LoginLink) (*oneWay, error) {
	wanted.Role = control.Operator
	if wanted.Reseller != "" {
		wanted.Role = control.Reseller
	}
	if wanted.User == "" {
		wanted.User = e.self()
		if wanted.Reseller != "" {
			wanted.User = wanted.Reseller
		}
	}
	made, err := client.NewLoginLink(c.Context, wanted)
	if err != nil {
		return nil, err
	}
	return &oneWay{
		URL: webfront.Link(public, listen, made.Token), ExpiresAt: made.ExpiresAt, User: made.User, Role: made.Role, Reseller: made.Reseller,
	}, nil
}

// self is who runs this program; behind sudo, who called it.
func (e *env) self() string {
	if e.uid == 0 && e.sudoUser != "" {
		return e.sudoUser
	}
	if u, err := user.LookupId(strconv.Itoa(e.uid)); err == nil {
		return u.Username
	}
	return fmt.Sprint("uid ", e.uid)
}
