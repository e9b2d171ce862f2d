package evidence

import (
	"net/netip"
	"slices"
)

// candidate is a row of Apache's that may be the request a worker of php-fpm serves.
type candidate struct {
	row
	startMin int64
	open     bool // it may serve any number of requests, and of any URI
}

func (c *candidate) client() netip.Addr {
	ip, err := netip.ParseAddr(c.row.client)
	if err != nil {
		return netip.Addr{}
	}
	return ip.Unmap().WithZone("")
}

// matcher finds the visitor behind a worker's request by the URI. php-fpm does not tell who
// asked, so the rows of all visitors who may have asked for that URI are laid against all
// workers that serve it: each worker's request has a row that began no later. Where the
// worker in question can have the rows of one visitor only, it is him.
type matcher struct {
	pool *fpmSample
	rows []row
	at   sample
	ours func(r *row) ownership // whether the row's virtual host is the account's
}

// ownership is what is known of whose a virtual host is.
type ownership uint8

const (
	anybodys ownership = iota // not known
	theAccounts
	anothers
)

// visitor returns the row of the request that p serves, and whether that rests on the URI
// (sure) or on there being no other request of the account at all.
func (m *matcher) visitor(p *fpmProcess) (r row, sure, ok bool) {
	if !m.pool.noneWaits() {
		return row{}, false, false
	}
	workers := m.workers(func(q *fpmProcess) bool { return q.Method == p.Method && q.URI == p.URI })
	rows, literal := m.candidates(p)
	if literal {
		r, ok = m.only(p, workers, rows)
		return r, true, ok
	}
	r, ok = m.alone(p)
	return r, false, ok
}

// workers are the start times (latest) of the pool's running requests of a kind, the
// status page's own left out.
func (m *matcher) workers(kind func(*fpmProcess) bool) []int64 {
	var out []int64
	for i := range m.pool.Processes {
		if q := &m.pool.Processes[i]; q.running() && q.path() != m.pool.path && kind(q) {
			out = append(out, m.pool.span(q).startMax)
		}
	}
	return out
}

// candidates are the rows that may ask for p's URI; literal if one of them does by its text.
func (m *matcher) candidates(p *fpmProcess) (out []candidate, literal bool) {
	for i := range m.rows {
		r := &m.rows[i]
		l := r.like(p.Method, decoded(p.escaped()), p.uriCut())
		if l == another || !r.mayServe() || m.ours(r) == anothers {
			continue
		}
		literal = literal || l == same
		out = append(out, candidate{*r, began(*r, m.at).startMin, l == unclear})
	}
	return out, literal
}

// only returns a row of the one visitor whose rows p can have.
func (m *matcher) only(p *fpmProcess, workers []int64, rows []candidate) (found row, ok bool) {
	mine := m.pool.span(p).startMax
	others := slices.Clone(workers)
	if i := slices.Index(others, mine); i >= 0 {
		others = slices.Delete(others, i, i+1)
	}
	var who netip.Addr
	for i := range rows {
		c := &rows[i]
		if c.startMin > mine && !c.open || !servesAll(others, rows, i) {
			continue
		}
		ip := c.client()
		if !ip.IsValid() || who.IsValid() && ip != who {
			return row{}, false
		}
		who = ip
		if !c.open {
			found, ok = c.row, true
		}
	}
	return found, ok
}

// servesAll reports whether each worker can have a row of its own that began no later than
// its request, rows[without] given away.
func servesAll(workers []int64, rows []candidate, without int) bool {
	var starts []int64
	for i := range rows {
		switch {
		case rows[i].open:
			return true // it may be all of them
		case i != without:
			starts = append(starts, rows[i].startMin)
		}
	}
	workers = slices.Sorted(slices.Values(workers))
	slices.Sort(starts)
	if len(starts) < len(workers) {
		return false
	}
	for i, w := range workers {
		if starts[i] > w {
			return false
		}
	}
	return true
}

// alone returns the account's one busy row where p is the one running request of its pool:
// its URI was rewritten. All rows whose virtual host may be the account's must be one
// visitor's.
func (m *matcher) alone(p *fpmProcess) (found row, ok bool) {
	if len(m.workers(func(*fpmProcess) bool { return true })) != 1 {
		return row{}, false
	}
	mine := m.pool.span(p).startMax
	var who netip.Addr
	for i := range m.rows {
		c := candidate{row: m.rows[i]}
		whose := m.ours(&c.row)
		if whose == anothers || !c.mayServe() || began(c.row, m.at).startMin > mine && !c.multiplexed() {
			continue
		}
		_, line := c.line()
		ip := c.client()
		if !ip.IsValid() || who.IsValid() && ip != who {
			return row{}, false
		}
		who = ip
		if c.busy() && line && whose == theAccounts {
			found, ok = c.row, true
		}
	}
	return found, ok
}
