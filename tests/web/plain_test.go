package web

import (
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

// visitor asks for pages without a browser, for what no browser would send.
type visitor struct {
	t      *testing.T
	door   door
	origin string
	cookie string
}

// answer is what came back.
type answer struct {
	*http.Response
	text string
}

// do sends a request to an address; header are names and values.
func (v *visitor) do(method, address, form string, header ...string) answer {
	v.t.Helper()
	r, err := http.NewRequestWithContext(v.t.Context(), method, address, strings.NewReader(form))
	if err != nil {
		v.t.Fatal(err)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", v.origin)
	}
	if v.cookie != "" {
		r.Header.Set("Cookie", v.cookie)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if r.Header.Set(header[i], header[i+1]); header[i+1] == "" {
			r.Header.Del(header[i])
		}
	}
	c := http.Client{Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(r)
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	return answer{resp, string(text)}
}

func (v *visitor) get(page string, header ...string) answer {
	v.t.Helper()
	return v.do(http.MethodGet, v.door.address(page), "", header...)
}

func (v *visitor) post(page string, form url.Values, header ...string) answer {
	v.t.Helper()
	return v.do(http.MethodPost, v.door.address(page), form.Encode(), header...)
}

// hidden is the value of a hidden field of the first form that has it.
func (a answer) hidden(name string) string {
	m := regexp.MustCompile(`name="` + regexp.QuoteMeta(name) + `" value="([^"]*)"`).FindStringSubmatch(a.text)
	if m == nil {
		return ""
	}
	return m[1]
}

// visits are the two ways in for a user: osmctl web with a link, and WHM.
func visits(t *testing.T, user string) []*visitor {
	t.Helper()
	return []*visitor{visitAlone(t, user), visitWHM(t, user)}
}

func visitAlone(t *testing.T, user string) *visitor {
	t.Helper()
	v := &visitor{t: t, door: alone(), origin: "http://" + webAddress}
	args := []string{"--user", user}
	if user != "root" {
		args = []string{"--reseller", user}
	}
	u, err := url.Parse(link(t, args...))
	if err != nil {
		t.Fatal(err)
	}
	in := v.do(http.MethodPost, v.origin+u.Path, u.RawQuery)
	if in.StatusCode != http.StatusSeeOther || len(in.Cookies()) != 1 {
		t.Fatalf("the login answered %s: %.500s", in.Status, in.text)
	}
	v.cookie = in.Cookies()[0].Name + "=" + in.Cookies()[0].Value
	return v
}

func visitWHM(t *testing.T, user string) *visitor {
	t.Helper()
	v := &visitor{t: t, door: whm(user), origin: "http://" + whmAddress}
	in := v.do(http.MethodGet, whmFrame(user), "")
	if in.StatusCode != http.StatusSeeOther || len(in.Cookies()) != 1 {
		t.Fatalf("the login answered %s: %.500s", in.Status, in.text)
	}
	v.cookie = in.Cookies()[0].Name + "=" + in.Cookies()[0].Value
	return v
}
