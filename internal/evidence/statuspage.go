package evidence

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

const (
	maxPage  = 4 << 20 // of a status page, in bytes; a slot takes some 300
	maxRows  = 20_000
	maxCells = 32
	maxCell  = 1024 // bytes of one cell; Apache keeps 63 of a request
	maxToken = 64 << 10
)

var (
	errNoStatus = errors.New("this is not Apache's status page")
	errNotExt   = errors.New("no requests in Apache's status page: ExtendedStatus is off")
)

// row is one slot of Apache's scoreboard that has a process.
type row struct {
	slot     string
	pid      int32
	accesses int64 // requests that this process has ended
	state    byte  // the letter of column M
	seconds  int64 // since the request began or, for an idle slot, ended
	millis   int64 // how long the request took that ended last
	client   string
	protocol string // "" where the page has no such column
	vhost    string // name and port; Apache keeps 31 bytes
	request  string // the request line as Apache escapes it for logs; it keeps 63 bytes
}

// busy reports whether the slot works on the request it shows.
func (r *row) busy() bool { return r.state == 'W' }

// ended reports whether the request that the slot shows is over.
func (r *row) ended() bool { return r.state == '_' || r.state == 'K' || r.state == 'C' }

// parseStatus reads Apache's status page. A row that cannot be understood is an error: it
// might be the request that is looked for. The columns are found by their names, as Dur and
// Protocol are not in all versions.
func parseStatus(r io.Reader) ([]row, error) {
	limited := &io.LimitedReader{R: r, N: maxPage + 1}
	p := pageParser{z: html.NewTokenizer(limited)}
	p.z.SetMaxBuf(maxToken)
	rows, err := p.rows()
	switch {
	case limited.N == 0:
		return nil, fmt.Errorf("read Apache's status page: more than %d bytes", maxPage)
	case err != nil:
		return nil, fmt.Errorf("read Apache's status page: %w", err)
	case rows != nil:
		return rows, nil
	case p.status:
		return nil, errNotExt
	}
	return nil, errNoStatus
}

type pageParser struct {
	z       *html.Tokenizer
	columns map[string]int // of the table being read, nil before its head
	width   int
	status  bool // the page calls itself a server status
}

// rows returns the workers of the first table that has them; nil: there is none.
func (p *pageParser) rows() ([]row, error) {
	var out []row
	for {
		switch p.z.Next() {
		case html.ErrorToken:
			if err := p.z.Err(); !errors.Is(err, io.EOF) {
				return nil, err
			}
			if p.columns != nil {
				return nil, io.ErrUnexpectedEOF // the table has no end
			}
			return nil, nil
		case html.StartTagToken:
			switch tag(p.z) {
			case atom.H1:
				text, err := p.text(atom.H1)
				if err != nil {
					return nil, err
				}
				p.status = p.status || strings.Contains(text, "Server Status")
			case atom.Tr:
				cells, err := p.cells()
				if err != nil {
					return nil, err
				}
				if out, err = p.add(out, cells); err != nil {
					return nil, err
				}
			}
		case html.EndTagToken:
			if tag(p.z) == atom.Table && p.columns != nil {
				return append([]row{}, out...), nil
			}
		}
	}
}

func tag(z *html.Tokenizer) atom.Atom {
	name, _ := z.TagName()
	return atom.Lookup(name)
}

// text is what stands up to the end tag, of which at most maxCell bytes are kept.
func (p *pageParser) text(end atom.Atom) (string, error) {
	var b strings.Builder
	for {
		switch p.z.Next() {
		case html.ErrorToken:
			return "", eofIsUnexpected(p.z.Err())
		case html.TextToken:
			if t := p.z.Text(); b.Len() < maxCell {
				b.Write(t[:min(len(t), maxCell-b.Len())])
			}
		case html.EndTagToken:
			if tag(p.z) == end {
				return strings.TrimSpace(b.String()), nil
			}
		}
	}
}

func eofIsUnexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// cells are the texts of one row of any table.
func (p *pageParser) cells() ([]string, error) {
	var cells []string
	for {
		switch p.z.Next() {
		case html.ErrorToken:
			return nil, eofIsUnexpected(p.z.Err())
		case html.StartTagToken:
			if t := tag(p.z); t == atom.Td || t == atom.Th {
				text, err := p.text(t)
				if err != nil {
					return nil, err
				}
				if cells = append(cells, text); len(cells) > maxCells {
					return nil, fmt.Errorf("a row of more than %d cells", maxCells)
				}
			}
		case html.EndTagToken:
			switch tag(p.z) {
			case atom.Tr:
				return cells, nil
			case atom.Table:
				return nil, errors.New("a row without end")
			}
		}
	}
}

// add takes one row of a table: its head, or a worker once the head was found.
func (p *pageParser) add(out []row, cells []string) ([]row, error) {
	if p.columns == nil {
		p.columns, p.width = workerColumns(cells), len(cells)
		return out, nil
	}
	if len(cells) != p.width {
		return nil, fmt.Errorf("a row of %d cells under a head of %d", len(cells), p.width)
	}
	r, err := p.worker(cells)
	if err != nil || r.pid == 0 {
		return out, err
	}
	if len(out) == maxRows {
		return nil, fmt.Errorf("more than %d rows", maxRows)
	}
	return append(out, r), nil
}

// workerColumns are the columns by their names if all that are needed are there, each once.
func workerColumns(cells []string) map[string]int {
	columns := map[string]int{}
	for i, name := range cells {
		if _, twice := columns[name]; twice {
			return nil
		}
		columns[name] = i
	}
	for _, name := range []string{"Srv", "PID", "Acc", "M", "SS", "Req", "Client", "VHost", "Request"} {
		if _, ok := columns[name]; !ok {
			return nil
		}
	}
	return columns
}

// worker reads one row; pid is 0 for a slot without process.
func (p *pageParser) worker(cells []string) (row, error) {
	at := func(name string) string {
		if i, ok := p.columns[name]; ok {
			return cells[i]
		}
		return ""
	}
	r := row{slot: at("Srv"), client: at("Client"), protocol: at("Protocol"), vhost: at("VHost"), request: at("Request")}
	if at("PID") == "-" {
		return row{}, nil
	}
	pid, err1 := strconv.ParseInt(at("PID"), 10, 32)
	seconds, err2 := strconv.ParseInt(at("SS"), 10, 64)
	millis, err3 := strconv.ParseInt(at("Req"), 10, 64)
	accesses, err4 := childAccesses(at("Acc"))
	if err := errors.Join(err1, err2, err3, err4); err != nil || pid < 0 || len(at("M")) != 1 {
		return row{}, fmt.Errorf("a row of PID %.20q, M %.20q, SS %.20q, Req %.20q, Acc %.40q", at("PID"), at("M"), at("SS"), at("Req"), at("Acc"))
	}
	if pid == 0 { // it is about to be started
		return row{}, nil
	}
	// A clock that was set back makes them negative: then nothing is known of the time.
	r.seconds, r.millis = min(seconds, maxSeconds), min(millis, 1000*maxSeconds)
	r.pid, r.accesses, r.state = int32(pid), accesses, at("M")[0]
	return r, nil
}

// maxSeconds bounds a time that is calculated with: ten years.
const maxSeconds = 10 * 366 * 24 * 3600

// childAccesses reads the middle of "connection/child/slot".
func childAccesses(s string) (int64, error) {
	parts := strings.Split(s, "/")
	if len(parts) != 3 {
		return 0, fmt.Errorf("accesses %.40q", s)
	}
	return strconv.ParseInt(parts[1], 10, 64)
}
