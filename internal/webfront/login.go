package webfront

import (
	"errors"
	"net/http"
	"strings"

	"osm/internal/control"
)

// login shows what a link is for, and takes it when the button is pressed: programs that
// look at links beforehand, in mail or chat, do not press buttons.
func (f *Front) login(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		token := r.URL.Query().Get("t")
		if token == "" {
			f.askForLogin(w, r)
			return
		}
		m := message{Title: "Log in to osm", Text: "This link lets one browser in, once.", Token: token}
		if !f.o.Asserts {
			m.Text += " What is changed is written down as done by " + f.o.Self + ", who serves this page."
		}
		f.say(w, r, http.StatusOK, m)
	case http.MethodPost:
		f.redeem(w, r)
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		f.say(w, r, http.StatusMethodNotAllowed, message{Title: "Not a way to log in", Text: "Open the link, and press the button."})
	}
}

// redeem takes a link.
func (f *Front) redeem(w http.ResponseWriter, r *http.Request) {
	if !f.fromHere(r) {
		f.elsewhere(w, r)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	token := r.PostFormValue("t")
	visitor := f.visitor(r)
	if !f.tries.begin(visitor) {
		w.Header().Set("Retry-After", "60")
		f.say(w, r, http.StatusTooManyRequests, message{Title: "Too many wrong links", Text: "Wait a minute, then try again."})
		return
	}
	who, err := f.use(r, token)
	var refused *control.Error
	switch {
	case err == nil:
		f.tries.right(visitor)
	case errors.Is(err, errNotAsserted):
		f.tries.right(visitor)
		f.say(w, r, http.StatusForbidden, message{
			Title: "For operators only",
			Text:  "This link is a reseller's. osmctl web runs as " + f.o.Self + " here, and the daemon believes only root about who asks: let root run osmctl web, and make another link.",
		})
		return
	case errors.As(err, &refused) && refused.Status >= 500:
		f.tries.right(visitor)
		f.away(w, r, err)
		return
	default:
		f.o.Log.Warn("a link was wrong", "client", visitor, "err", err)
		f.say(w, r, http.StatusForbidden, message{
			Title: "This link is of no use any more",
			Text:  "It was used already, or ten minutes have passed since it was made. Make another one on the server.",
			Do:    []string{"osmctl web link"},
		})
		return
	}
	for _, c := range r.CookiesNamed(f.cookie(r)) {
		f.sessions.end(c.Value)
	}
	f.setCookie(w, r, f.sessions.begin(who))
	f.o.Log.Info("logged in", "user", who.User, "role", string(who.Role), "reseller", who.Reseller, "client", visitor)
	f.redirect(w, f.base()+"/")
}

// use hands the link to the daemon, if it can be one.
func (f *Front) use(r *http.Request, token string) (control.LoginLink, error) {
	if token == "" || len(token) > maxLinkSize || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return control.LoginLink{}, errors.New("it is none")
	}
	who, err := f.o.Redeem(r.Context(), token)
	if err != nil {
		return control.LoginLink{}, err
	}
	if who.Role != control.Operator && !f.o.Asserts {
		return control.LoginLink{}, errNotAsserted
	}
	return who, nil
}

// logout ends the login. It is a POST from a page of ours, so that no other page can do it.
func (f *Front) logout(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		f.say(w, r, http.StatusMethodNotAllowed, message{Title: "Not a way to log out", Text: "Use the button on the page."})
		return
	}
	if !f.fromHere(r) {
		f.elsewhere(w, r)
		return
	}
	if who, ok := f.who(r, false); ok {
		f.o.Log.Info("logged out", "user", who.User)
	}
	for _, c := range r.CookiesNamed(f.cookie(r)) {
		f.sessions.end(c.Value)
	}
	f.setCookie(w, r, "")
	f.redirect(w, f.base()+loginPath+"?out=1")
}

// elsewhere refuses a form that another page sent.
func (f *Front) elsewhere(w http.ResponseWriter, r *http.Request) {
	f.o.Log.Warn("a form of another page was refused", "origin", cut(r.Header.Get("Origin")), "client", f.visitor(r))
	f.say(w, r, http.StatusForbidden, message{Title: "Refused", Text: "The form was not sent by a page of osm. Open the page and do it there."})
}

func (f *Front) redirect(w http.ResponseWriter, to string) {
	f.secureHeaders(w)
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
}

// cut bounds what a stranger wrote before it is logged.
func cut(s string) string { return s[:min(len(s), 80)] }
