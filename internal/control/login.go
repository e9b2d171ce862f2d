package control

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Bounds of login links.
const (
	linkFor  = 10 * time.Minute
	maxLinks = 100 // open at once
)

// loginLinks are the links that nobody has used yet. They are kept in memory alone, by
// what SHA-256 makes of their token: whoever reads the memory or the database cannot
// log in with what he finds, and a restart ends them all.
type loginLinks struct {
	mu   sync.Mutex // guards open
	open map[[sha256.Size]byte]openLink
}

type openLink struct {
	LoginLink
	until int64 // boot clock, ms
}

// add remembers a link, unless there are too many.
func (l *loginLinks) add(token string, link openLink, now int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, old := range l.open {
		if old.until <= now {
			delete(l.open, key)
		}
	}
	if len(l.open) >= maxLinks {
		return false
	}
	if l.open == nil {
		l.open = map[[sha256.Size]byte]openLink{}
	}
	l.open[sha256.Sum256([]byte(token))] = link
	return true
}

// take uses a link up.
func (l *loginLinks) take(token string, now int64) (openLink, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := sha256.Sum256([]byte(token))
	link, ok := l.open[key]
	delete(l.open, key)
	return link, ok && link.until > now
}

// NewLoginLink makes a one-time link for an operator or a reseller; it holds for ten
// minutes.
func (s *Service) NewLoginLink(ctx context.Context, a Actor, l LoginLink) (LoginLink, error) {
	if err := operatorOnly(a, "let somebody in"); err != nil {
		return LoginLink{}, err
	}
	if l.Token != "" || !l.ExpiresAt.IsZero() {
		return LoginLink{}, badRequest("token and expires_at are not set by whoever asks for a link")
	}
	if err := s.completeLink(a, &l); err != nil {
		return LoginLink{}, err
	}
	var secret [32]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return LoginLink{}, fmt.Errorf("make a login link: %w", err)
	}
	now := s.o.Clock()
	l.ExpiresAt = Time{Time: now.Wall.Add(linkFor)}
	token := base64.RawURLEncoding.EncodeToString(secret[:])
	if !s.links.add(token, openLink{l, now.Boot + linkFor.Milliseconds()}, now.Boot) {
		return LoginLink{}, failure(http.StatusTooManyRequests, "use one of them, or wait ten minutes", "%d login links are open already", maxLinks)
	}
	s.audited(ctx, a, "login link", l.User, "", l.words()+", until "+l.ExpiresAt.UTC().Format("2006-01-02 15:04:05 UTC"), "")
	l.Token = token
	return l, nil
}

// completeLink fills in whom a link is for, and checks it as [actorOf] would.
func (s *Service) completeLink(a Actor, l *LoginLink) error {
	if l.Role == "" {
		l.Role = Operator
		if l.Reseller != "" {
			l.Role = Reseller
		}
	}
	if l.User == "" {
		l.User = orNothing(l.Reseller, a.Name)
	}
	switch l.Role {
	case Operator:
		if l.Reseller != "" {
			return badRequest("an operator sees all: name a reseller only with the role reseller")
		}
	case Reseller:
		l.Reseller = orNothing(l.Reseller, l.User)
		if l.Reseller == "root" || l.User == "root" {
			return badRequest("root is no reseller")
		}
		if len(s.directory().own[l.Reseller]) == 0 {
			return invalid("osmctl accounts shows whose each account is", "no account belongs to a reseller %.80q", l.Reseller)
		}
	default:
		return badRequest("role is %.40q: it is operator or reseller", l.Role)
	}
	if !plainName(l.User) || (l.Role == Reseller && !plainName(l.Reseller)) {
		return badRequest("user and reseller must be 1 to %d printable characters without blanks", maxActorName)
	}
	return nil
}

// RedeemLoginLink uses a link up and tells for whom it was.
func (s *Service) RedeemLoginLink(ctx context.Context, a Actor, token string) (LoginLink, error) {
	if err := operatorOnly(a, "redeem a login link"); err != nil {
		return LoginLink{}, err
	}
	link, ok := s.links.take(token, s.o.Clock().Boot)
	if !ok {
		return LoginLink{}, notFound("make a new one: osmctl web link", "this link does not hold (any more): each works once, for ten minutes, until the daemon is restarted")
	}
	s.audited(ctx, a, "login", link.User, "", link.words(), "")
	return link.LoginLink, nil
}

// words tells as what somebody is let in.
func (l *LoginLink) words() string {
	if l.Role == Reseller {
		return "reseller " + l.Reseller
	}
	return string(l.Role)
}
