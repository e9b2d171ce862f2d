package evidence

import (
	"fmt"
	"testing"
)

// A pool sampled at 60,000; its workers as "pid began uri", Apache's rows as "client
// seconds request".
func match(t *testing.T, workers []fpmProcess, rows []row, idle int, ours func(*row) ownership) (client string, sure bool) {
	t.Helper()
	pool := &fpmSample{before: 59_998, after: 60_000, path: "/fpm-status"}
	pool.Idle = idle
	pool.Processes = workers
	if ours == nil {
		ours = func(*row) ownership { return anybodys }
	}
	m := matcher{pool: pool, rows: rows, at: sample{before: 59_990, after: 59_995}, ours: ours}
	r, sure, ok := m.visitor(&workers[0])
	if !ok {
		return "", false
	}
	return r.client, sure
}

func worker(pid int32, age int64, uri string) fpmProcess {
	return fpmProcess{PID: pid, State: "Running", Duration: age * 1000, Method: "GET", URI: uri, Script: "/home/shop/a.php"}
}

func asks(client string, seconds int64, uri string) row {
	return row{pid: 500, state: 'W', seconds: seconds, client: client, protocol: "http/1.1", vhost: "shop.example:80", request: "GET " + uri + " HTTP/1.1"}
}

func TestTheVisitorBehindAWorker(t *testing.T) {
	h2 := asks("192.0.2.9", 0, "/a.php")
	h2.protocol, h2.request, h2.state = "h2", "[1/0] read: stream 0, ", 'R'
	named := asks("shop-visitor.example", 0, "/a.php")
	idle := asks("192.0.2.2", 0, "/a.php")
	idle.state = '_'
	post := asks("192.0.2.2", 0, "/a.php")
	post.request = "POST /a.php HTTP/1.1"
	for _, c := range []struct {
		name    string
		workers []fpmProcess
		rows    []row
		want    string
	}{
		{"one request of that URI", []fpmProcess{worker(1, 300, "/a.php")}, []row{asks("192.0.2.1", 0, "/a.php"), asks("192.0.2.2", 0, "/b.php")}, "192.0.2.1"},
		{"an ended one of another visitor beside it", []fpmProcess{worker(1, 300, "/a.php")}, []row{idle, asks("192.0.2.1", 0, "/a.php")}, "192.0.2.1"},
		{"another method beside it", []fpmProcess{worker(1, 300, "/a.php")}, []row{post, asks("192.0.2.1", 0, "/a.php")}, "192.0.2.1"},
		{"two visitors, the same second", []fpmProcess{worker(1, 300, "/a.php"), worker(2, 200, "/a.php")}, []row{asks("192.0.2.1", 0, "/a.php"), asks("192.0.2.2", 0, "/a.php")}, ""},
		{"two requests of one visitor", []fpmProcess{worker(1, 300, "/a.php"), worker(2, 200, "/a.php")}, []row{asks("192.0.2.1", 0, "/a.php"), asks("192.0.2.1", 0, "/a.php")}, "192.0.2.1"},
		{"the other visitor came later than the worker began", []fpmProcess{worker(1, 8300, "/a.php"), worker(2, 200, "/a.php")}, []row{asks("192.0.2.1", 8, "/a.php"), asks("192.0.2.2", 0, "/a.php")}, "192.0.2.1"},
		{"the later of the two, as the earlier worker must have the earlier visitor", []fpmProcess{worker(2, 200, "/a.php"), worker(1, 8300, "/a.php")}, []row{asks("192.0.2.1", 8, "/a.php"), asks("192.0.2.2", 0, "/a.php")}, "192.0.2.2"},
		{"two workers, one request to be seen", []fpmProcess{worker(1, 300, "/a.php"), worker(2, 200, "/a.php")}, []row{asks("192.0.2.1", 0, "/a.php")}, ""},
		{"one worker, and a second visitor who may wait", []fpmProcess{worker(1, 300, "/a.php")}, []row{asks("192.0.2.1", 0, "/a.php"), asks("192.0.2.2", 0, "/a.php")}, ""},
		{"a request that began after the worker", []fpmProcess{worker(1, 5300, "/a.php")}, []row{asks("192.0.2.1", 1, "/a.php")}, ""},
		{"an HTTP/2 connection that may have asked", []fpmProcess{worker(1, 300, "/a.php")}, []row{asks("192.0.2.1", 0, "/a.php"), h2}, ""},
		{"an HTTP/2 connection alone, which does not say what it asks", []fpmProcess{worker(1, 300, "/a.php")}, []row{h2}, ""},
		{"a visitor who is shown by name", []fpmProcess{worker(1, 300, "/a.php")}, []row{named}, ""},
		{"nobody", []fpmProcess{worker(1, 300, "/a.php")}, nil, ""},
		{"rewritten, and whose the virtual host is is not known", []fpmProcess{worker(1, 300, "/index.php")}, []row{asks("192.0.2.1", 0, "/contact")}, ""},
	} {
		if got, _ := match(t, c.workers, c.rows, 1, nil); got != c.want {
			t.Errorf("%s: visitor %q, want %q", c.name, got, c.want)
		}
	}
}

func TestWhereRequestsWaitForAWorkerNobodyIsNamed(t *testing.T) {
	busy := []fpmProcess{worker(1, 300, "/a.php")}
	rows := []row{asks("192.0.2.1", 0, "/a.php")}
	if got, _ := match(t, busy, rows, 0, nil); got != "" {
		t.Errorf("all workers are busy, and visitor %q is named", got)
	}
	if got, _ := match(t, append(busy, worker(2, 0, "/fpm-status?full&json")), rows, 0, nil); got != "192.0.2.1" {
		t.Errorf("the pool had a worker for our question, and the visitor is %q", got)
	}
}

func TestARewrittenURLIsTheAccountsOnlyRequest(t *testing.T) {
	owner := func(r *row) ownership {
		switch host, _ := r.host(); host {
		case "shop.example":
			return theAccounts
		case "blog.example":
			return anothers
		}
		return anybodys
	}
	blog, unknown := asks("192.0.2.2", 0, "/"), asks("192.0.2.3", 0, "/")
	blog.vhost, unknown.vhost = "blog.example:80", "new.example:80"
	one := []fpmProcess{worker(1, 300, "/index.php")}
	status := worker(3, 0, "/fpm-status?full&json")
	for _, c := range []struct {
		name    string
		workers []fpmProcess
		rows    []row
		want    string
	}{
		{"alone", one, []row{asks("192.0.2.1", 0, "/contact"), blog}, "192.0.2.1"},
		{"two requests of the account", one, []row{asks("192.0.2.1", 0, "/contact"), asks("192.0.2.2", 0, "/picture.png")}, ""},
		{"another virtual host that may be its", one, []row{asks("192.0.2.1", 0, "/contact"), unknown}, ""},
		{"two workers", append(one, worker(2, 100, "/index.php")), []row{asks("192.0.2.1", 0, "/contact")}, ""},
		{"a later request", []fpmProcess{worker(1, 7300, "/index.php")}, []row{asks("192.0.2.1", 0, "/contact")}, ""},
		{"the blog's request of the same URI", one, []row{blog}, ""},
	} {
		got, sure := match(t, append(c.workers, status), c.rows, 0, owner)
		if got != c.want || sure {
			t.Errorf("%s: visitor %q (by the URI: %t), want %q", c.name, got, sure, c.want)
		}
	}
}

// However the requests of many visitors are spread over the workers: nobody is named whom
// another assignment would contradict.
func FuzzVisitor(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 5, 6})
	f.Add([]byte{0, 0, 0, 9, 9, 9, 200, 100})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 2 || len(b) > 12 {
			return
		}
		// The truth: visitor i began to ask at b[i]*40 ms before the samples, and his
		// worker began after a wait that the sum of all makes up.
		var workers []fpmProcess
		var rows []row
		for i, age := range b {
			began := int64(age)*40 + 20
			wait := min(int64(b[(i+1)%len(b)])*7, began-10)
			workers = append(workers, worker(int32(i+1), began-wait, "/a.php"))
			rows = append(rows, asks(fmt.Sprintf("192.0.2.%d", i+1), (began-7)/1000, "/a.php"))
		}
		if got, _ := match(t, workers, rows, 1, nil); got != "" && got != "192.0.2.1" {
			t.Fatalf("visitor %q was named, it was 192.0.2.1: %v", got, b)
		}
	})
}
