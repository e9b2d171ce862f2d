package evidence

import "testing"

func TestARowIsComparedWithWhatPHPWasAskedFor(t *testing.T) {
	for _, c := range []struct {
		name, protocol, request, method, uri string
		cut                                  bool
		want                                 likeness
	}{
		{"the same", "http/1.1", "GET /a.php?x=1 HTTP/1.1", "GET", "/a.php?x=1", false, same},
		{"no protocol known", "", "GET /a.php HTTP/1.0", "GET", "/a.php", false, same},
		{"another method", "http/1.1", "POST /a.php HTTP/1.1", "GET", "/a.php", false, another},
		{"any method", "http/1.1", "POST /a.php HTTP/1.1", "", "/a.php", false, same},
		{"another query", "http/1.1", "GET /a.php?x=1 HTTP/1.1", "GET", "/a.php?x=12", false, another},
		{"a query that only begins so", "http/1.1", "GET /a.php?x=12 HTTP/1.1", "GET", "/a.php?x=1", false, another},
		{"escapes in the path", "http/1.1", "GET /a%20b%2ephp HTTP/1.1", "GET", "/a b.php", false, same},
		{"escapes in the query are kept", "http/1.1", "GET /a?b%20c HTTP/1.1", "GET", "/a?b c", false, another},
		{"doubled slashes", "http/1.1", "GET //x//a.php HTTP/1.1", "GET", "/x/a.php", false, same},
		{"bytes that are no UTF-8", "http/1.1", `GET /a.php?\xffx HTTP/1.1`, "GET", "/a.php?x", false, same},
		{"quotes and backslashes", "http/1.1", `GET /a?\"\\ HTTP/1.1`, "GET", `/a?"\`, false, same},
		{"a proxy's form", "http/1.1", "GET http://shop.example/a.php HTTP/1.1", "GET", "/a.php", false, same},
		{"cut by Apache", "http/1.1", "GET /a.php?long=aaaa", "GET", "/a.php?long=aaaabbbb", false, same},
		{"cut by Apache, but another", "http/1.1", "GET /a.php?long=aaab", "GET", "/a.php?long=aaaabbbb", false, another},
		{"cut by Apache in an escape", "http/1.1", "GET /a%2", "GET", "/a b", false, same},
		{"cut by php-fpm", "http/1.1", "GET /a.php?long=aaaabbbb HTTP/1.1", "GET", "/a.php?long=aaaa", true, same},
		{"the tail alone", "http/1.1", "php?long=aaaa HTTP/1.1", "GET", "/a.php?long=aaaa", false, unclear},
		{"reading", "http/1.1", "..reading..", "GET", "/a.php", false, unclear},
		{"HTTP/2", "h2", "GET /b.php HTTP/2.0", "GET", "/a.php", false, unclear},
		{"nothing", "", "", "GET", "/a.php", false, unclear},
	} {
		r := row{protocol: c.protocol, request: c.request}
		if got := r.like(c.method, c.uri, c.cut); got != c.want {
			t.Errorf("%s: %q is %d like %s %q, want %d", c.name, c.request, got, c.method, c.uri, c.want)
		}
	}
}

func TestVirtualHostsOfRows(t *testing.T) {
	for vhost, want := range map[string]string{
		"Shop.example:80": "shop.example", "[::1]:443": "[::1]", "": "",
		"a-very-long-name.of.a.shop.exam": "a-very-long-name.of.a.shop.exam …", "a-very-long-name-of-a.example:4": "a-very-long-name-of-a.example",
	} {
		host, cut := (&row{vhost: vhost}).host()
		if cut {
			host += " …"
		}
		if host != want {
			t.Errorf("%q is the virtual host %q, want %q", vhost, host, want)
		}
	}
}
