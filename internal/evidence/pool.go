package evidence

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"osm/policy"
)

// fpm is for workers of php-fpm: the pool's own status page has the script, and Apache's
// the visitor. Apache is asked first, so that a request which the pool still works on
// afterwards must be among those that Apache showed.
func (q *question) fpm(ctx context.Context, claim policy.Evidence) policy.Evidence {
	apache, noApache := q.g.askApache(ctx)
	pool, p, err := q.poolWorker(ctx)
	if err != nil {
		return note(claim, "%v", err)
	}
	f := impossible
	if p.running() {
		s := pool.span(p)
		f = q.fit(s, s.fit(q.when) == possible && q.stillOpen(ctx))
	}
	if f < connected {
		return note(claim, "php-fpm status, pool %.40s, worker %d: not certain which of its requests it was", pool.Pool, p.PID)
	}
	if !q.workerRuns(ctx) {
		return note(claim, "php-fpm's process %d is not the one that it was", p.PID)
	}
	e := policy.Evidence{
		Script: p.Script, URL: p.escaped(), Method: p.Method, PID: p.PID, SeenAt: pool.wall, Confidence: policy.ConfidenceHigh,
		Basis: fmt.Sprintf("php-fpm status, pool %.40s, worker %d", pool.Pool, p.PID),
	}
	if p.uriCut() {
		e.URL += cutMark
	}
	if f != certain {
		e.Confidence = policy.ConfidenceLow
		e.Basis += ", whose request was under way " + q.then()
	}
	if noApache != nil {
		return note(e, "visitor not known: %v", noApache)
	}
	if clockSet(q.at, policy.Moment{Wall: apache.wall, Boot: apache.after}) {
		return note(e, "visitor not known: the clock was set since")
	}
	m := matcher{pool: &pool, rows: apache.rows, at: apache, ours: q.ours}
	return withVisitor(e, &m, p)
}

// withVisitor adds who asked, if that is one only.
func withVisitor(e policy.Evidence, m *matcher, p *fpmProcess) policy.Evidence {
	r, sure, ok := m.visitor(p)
	if !ok {
		return note(e, "visitor not known: Apache's status does not show one request that it must be")
	}
	req := fromRow(&r, e.SeenAt)
	e.ClientIP, e.VirtualHost = req.ClientIP, req.VirtualHost
	if l, _ := r.line(); sure && l.whole {
		e.URL = req.URL // as the visitor wrote it
	}
	if sure {
		e.Basis += fmt.Sprintf(" + Apache status, worker %d, request of the same URI", r.pid)
		return e
	}
	e.URL, e.Method, e.Confidence = req.URL, req.Method, policy.ConfidenceLow
	e.Basis += fmt.Sprintf(" + Apache status, worker %d, the account's only request", r.pid)
	return e
}

// poolWorker finds the worker in the status page of its pool.
func (q *question) poolWorker(ctx context.Context) (fpmSample, *fpmProcess, error) {
	var errs []error
	for _, pool := range q.g.pools.named(q.pool) {
		s, err := askFPM(ctx, pool, &q.g.opt)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if p := s.process(q.worker.PID); p != nil {
			return s, p, nil
		}
		errs = append(errs, fmt.Errorf("php-fpm status, pool %.40s: process %d is not in it", pool.Name, q.worker.PID))
	}
	if len(errs) == 0 {
		return fpmSample{}, nil, fmt.Errorf("php-fpm's pool %.40q has no status page that is known", q.pool)
	}
	return fpmSample{}, nil, errors.Join(errs...)
}

// ours tells whether a row's virtual host is the account's.
func (q *question) ours(r *row) ownership {
	host, cut := r.host()
	if q.g.opt.Owner == nil || cut || host == "" || strings.HasPrefix(q.id.Account, "(") {
		return anybodys
	}
	switch owner, ok := q.g.opt.Owner(host); {
	case !ok:
		return anybodys
	case owner == q.id.Account:
		return theAccounts
	}
	return anothers
}
