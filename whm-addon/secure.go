package whm

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"mime"
	"net/http"

	"osm/internal/control"
)

// policyOfContent lets a page load what is ours and nothing else. Inside WHM it is shown in
// a frame of the same origin, elsewhere in none.
const policyOfContent = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors "

// secure sets the headers that every answer has.
func secure(h http.Header, f front) {
	ancestors := "'none'"
	if f.framed {
		ancestors = "'self'"
	}
	h.Set("Content-Security-Policy", policyOfContent+ancestors)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
}

// token is what a form must bring along: it can be made by this process alone, and holds
// for one login of one user.
func (c *call) token() string {
	mac := hmac.New(sha256.New, c.p.secret[:])
	mac.Write([]byte(c.actor.Name + "\n" + string(c.actor.Role) + "\n" + c.actor.Reseller + "\n" + c.front.session))
	return hex.EncodeToString(mac.Sum(nil))
}

// maxBody bounds what a form may send.
const maxBody = 1 << 20

// ownForm refuses a POST that is not from a form of this page, sent by this login.
func (c *call) ownForm() error {
	if kind, _, _ := mime.ParseMediaType(c.Header.Get("Content-Type")); kind != "application/x-www-form-urlencoded" {
		return refusal(http.StatusUnsupportedMediaType, "", "a form was expected")
	}
	c.Body = http.MaxBytesReader(c.w, c.Body, maxBody)
	if err := c.ParseForm(); err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return refusal(http.StatusRequestEntityTooLarge, "choose fewer messages, or use a filter", "the form is larger than 1 MiB")
		}
		return refusal(http.StatusBadRequest, "", "the form could not be read")
	}
	const again = "go back, load the page again, and send the form once more"
	switch {
	case c.front.session == "":
		return refusal(http.StatusForbidden, "log in again", "nothing can be changed without a login")
	case !c.ownOrigin():
		return refusal(http.StatusForbidden, "if a proxy stands before this server, the front must know the address that browsers use", "this form was sent from another site")
	case !hmac.Equal([]byte(c.PostForm.Get("csrf")), []byte(c.token())):
		return refusal(http.StatusForbidden, again, "this form is of another login, or osm was restarted since the page was loaded")
	}
	return nil
}

// ownOrigin reports whether the browser says that the form is ours. Browsers name the
// origin with every POST; where one does not, it must at least say that it is the same.
func (c *call) ownOrigin() bool {
	if origin := c.Header.Get("Origin"); origin != "" {
		return c.front.origin != "" && origin == c.front.origin
	}
	return c.Header.Get("Sec-Fetch-Site") == "same-origin"
}

// refusal is an error as the operations have them.
func refusal(status int, hint, text string) error {
	return &control.Error{Status: status, Message: text, Hint: hint}
}
