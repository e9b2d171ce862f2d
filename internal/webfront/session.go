package webfront

import (
	"crypto/rand"
	"crypto/sha256"
	"sync"
	"time"

	"osm/internal/control"
)

// How long a login lasts, and how many there are at once.
const (
	idleTime    = time.Hour      // without a page being opened
	loginTime   = 12 * time.Hour // whatever is done
	maxSessions = 100            // beyond it the one that was used longest ago ends
)

// session is one login.
type session struct {
	User     string
	Role     control.Role
	Reseller string
	Name     string // what the daemon knows it by; of no use to a browser

	began, seen time.Time
}

// sessions are the logins, in memory only: they end with the process. The key of each is
// the hash of what stands in its cookie, so that a copy of this memory lets nobody in.
type sessions struct {
	now func() time.Time

	mu  sync.Mutex // guards all
	all map[[sha256.Size]byte]*session
}

func newSessions(now func() time.Time) *sessions {
	return &sessions{now: now, all: map[[sha256.Size]byte]*session{}}
}

// begin makes a login and returns the value of its cookie.
func (s *sessions) begin(who control.LoginLink) string {
	secret := rand.Text() // 130 bits
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.makeRoom(now)
	s.all[sha256.Sum256([]byte(secret))] = &session{
		User: who.User, Role: who.Role, Reseller: who.Reseller, Name: rand.Text(), began: now, seen: now,
	}
	return secret
}

// makeRoom drops what has run out, and the oldest if that was not enough.
func (s *sessions) makeRoom(now time.Time) {
	var oldest [sha256.Size]byte
	var at time.Time
	for key, one := range s.all {
		if one.over(now) {
			delete(s.all, key)
			continue
		}
		if at.IsZero() || one.seen.Before(at) {
			oldest, at = key, one.seen
		}
	}
	if len(s.all) >= maxSessions {
		delete(s.all, oldest)
	}
}

func (one *session) over(now time.Time) bool {
	return now.Sub(one.seen) >= idleTime || now.Sub(one.began) >= loginTime
}

// find returns the login of a cookie; used says that a person did something, which keeps
// it from running out.
func (s *sessions) find(secret string, used bool) (session, bool) {
	key := sha256.Sum256([]byte(secret))
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.all[key]
	if !ok {
		return session{}, false
	}
	if one.over(now) {
		delete(s.all, key)
		return session{}, false
	}
	if used {
		one.seen = now
	}
	return *one, true
}

// end ends the login of a cookie.
func (s *sessions) end(secret string) {
	key := sha256.Sum256([]byte(secret))
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, key)
}
