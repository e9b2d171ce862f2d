package evidence

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"osm/policy"
)

// maxVariable is what the inspector tells of one variable of an environment.
const maxVariable = 512

// cgi is for scripts with a process of their own, whose environment the web server wrote,
// and in which the process itself may write as well. What Apache's status says of the same
// request confirms it or, where it is certain, stands in its place.
func (q *question) cgi(ctx context.Context, claim policy.Evidence) policy.Evidence {
	p := q.program
	ip, _ := netip.ParseAddr(p.RemoteAddr)
	e := policy.Evidence{
		Script: q.cgiScript(claim.Script), URL: p.RequestURI, VirtualHost: p.ServerName, ClientIP: ip.Unmap().WithZone(""), PID: p.PID,
		Basis: fmt.Sprintf("environment of CGI process %d", p.PID), Confidence: policy.ConfidenceLow,
	}
	s, err := q.g.askApache(ctx)
	if err != nil {
		return note(e, "%v", err)
	}
	rows, disputed := q.rowsOf(s)
	switch {
	case disputed:
		return q.disputed(ctx, e)
	case len(rows) == 0 && slices.ContainsFunc(s.rows, q.mayAgree):
		return note(e, "Apache's status shows an HTTP/2 connection of that visitor's")
	case len(rows) == 0:
		return note(unnamed(e), "which Apache's status does not show: the request is not known")
	}
	seen := fromRow(&rows[0], s.wall)
	for i := range rows[1:] {
		if other := fromRow(&rows[1+i], s.wall); other.Method != seen.Method || other.VirtualHost != seen.VirtualHost {
			seen.Method, seen.VirtualHost = "", e.VirtualHost
		}
	}
	e.Method, e.VirtualHost, e.SeenAt, e.Confidence = seen.Method, seen.VirtualHost, s.wall, policy.ConfidenceHigh
	return note(e, "Apache status, worker %d, shows the same request", rows[0].pid)
}

// cgiScript is the file in the environment, unless that is the program which the web server
// runs PHP by (the Action of suPHP and of panels): then what URL, directory and PHP's header
// agree on.
func (q *question) cgiScript(claim string) string {
	file := policy.CleanDirectory(q.program.ScriptFilename)
	if strings.HasPrefix(program(q.program), "php") && !strings.HasPrefix(path.Ext(file), ".ph") {
		agreed, _ := q.agreedScript(q.program.RequestURI)
		return agreed
	}
	if file == "" {
		return claim
	}
	return file
}

// rowsOf are the rows that show the request of the process's environment at its time.
// disputed: the process that it is a child of serves one request at a time, and shows
// another one.
func (q *question) rowsOf(s sample) (rows []row, disputed bool) {
	// The process is the request's own: it was started for it, so its start is what counts.
	w := messageTime(q.program, q.at)
	var parents []row
	for _, r := range s.rows {
		t, ok := newTrack(r, s)
		if !ok || t.span.fit(w) == impossible {
			continue
		}
		if r.pid == q.worker.PID {
			parents = append(parents, r)
		}
		if q.agrees(&r) {
			rows = append(rows, r)
		}
	}
	if len(parents) == 1 && !q.agrees(&parents[0]) {
		return nil, true
	}
	return rows, false
}

// unnamed leaves of what the environment says the script alone.
func unnamed(e policy.Evidence) policy.Evidence {
	return policy.Evidence{Script: e.Script, PID: e.PID, Basis: e.Basis, Confidence: policy.ConfidenceLow}
}

// agrees reports whether a row shows the request that is in the process's environment.
func (q *question) agrees(r *row) bool {
	return q.sameVisitor(r) && r.like("", decoded(q.program.RequestURI), len(q.program.RequestURI) >= maxVariable) == same
}

// mayAgree reports whether a row is a connection that may have that request among others.
func (q *question) mayAgree(r row) bool { return r.multiplexed() && r.mayServe() && q.sameVisitor(&r) }

func (q *question) sameVisitor(r *row) bool {
	c := candidate{row: *r}
	ip, err := netip.ParseAddr(q.program.RemoteAddr)
	return err == nil && c.client() == ip.Unmap().WithZone("")
}

// disputed is for a process whose parent shows another request than its environment does:
// Apache's word counts where the time makes it certain, and else nobody's.
func (q *question) disputed(ctx context.Context, e policy.Evidence) policy.Evidence {
	t, s, err := q.follow(ctx)
	if err != nil || t.span.fit(q.when) != certain || t.samples < 2 {
		e = unnamed(e)
		e.Script = "" // the same environment says it
		return note(e, "which does not agree with Apache status, worker %d: the request is not known", q.worker.PID)
	}
	other := fromRow(&t.row, s.wall)
	other.Confidence = policy.ConfidenceHigh
	other.Basis = fmt.Sprintf("Apache status, worker %d; the environment of process %d says otherwise", q.worker.PID, q.program.PID)
	return other
}
