package store

import (
	"encoding/json"
	"net/netip"
	"sync"
	"time"

	"osm/policy"
)

// Bounds of what waits in memory for the writer. When the queue is half full it takes no more
// connections past Exim, of which one script makes thousands a second, and when it is three
// quarters full nothing more that was accepted; the rest is kept for what was stopped.
const (
	queueRows   = 65_536
	queueBytes  = 64 << 20
	queueEvents = 4_096
	batchRows   = 1_000
)

// The texts of a decision, in the order in which a row keeps them.
const (
	textAccount = iota
	textMessageID
	textMailbox
	textBasis
	textDirectory
	textDirectoryAccount
	textScript
	textSubKey
	textSender
	textSubject
	textSubjectKey
	textTrigger
	textOver
	textRecipients
	textCount
)

// textMax is how many bytes of each text are kept.
var textMax = [textCount]int{
	textAccount: 128, textMessageID: 32, textMailbox: 320, textBasis: 256, textDirectory: 512,
	textDirectoryAccount: 128, textScript: 512, textSubKey: 128, textSender: 320, textSubject: 256,
	textSubjectKey: 256, textTrigger: 64, textOver: 4096, textRecipients: 1024,
}

// row is a decision on its way to the disk. It shares no memory with the submission,
// which may be 64 KiB large.
type row struct {
	seq        uint64
	at, boot   int64 // ms
	flags      int64
	verdict    policy.Verdict
	would      policy.Verdict
	recipients int64
	size       int64
	hold       int64
	event      int64
	ip         netip.Addr
	bytes      int
	text       [textCount]string
	connection *connection // nil of a message
	summed     bool        // it is added up, and not kept
}

// pack makes a row of a decision: one allocation for all its texts.
func pack(d *policy.Decision) row {
	r := row{
		seq: d.Seq, at: ms(d.At.Wall), boot: d.At.Boot, flags: flagsOf(d), verdict: d.Verdict, would: d.Would,
		hold: d.HoldID, event: d.EventID, ip: d.Identity.ClientIP,
	}
	id := &d.Identity
	in := [textCount]string{
		textAccount: id.Account, textMailbox: id.Mailbox, textBasis: id.Basis, textDirectory: id.Directory,
		textScript: id.Script, textSubKey: id.SubKey, textSubjectKey: d.SubjectKey, textTrigger: d.Trigger,
	}
	if id.DirectoryAccount != id.Account {
		in[textDirectoryAccount] = id.DirectoryAccount
	}
	if s := d.Submission; s != nil {
		r.recipients, r.size = int64(s.Recipients), s.Size
		in[textMessageID], in[textSender], in[textSubject] = s.MessageID, s.EnvelopeSender, subjectOf(s.Subject)
		if !r.ip.IsValid() {
			r.ip = s.ClientIP
		}
		if d.Verdict == policy.Freeze {
			in[textRecipients] = s.RecipientList
		}
		if s.Direct != nil {
			r.connection = packConnection(s.Direct)
			r.bytes = r.connection.bytes()
		}
	}
	if len(d.Over) > 0 {
		in[textOver] = overJSON(d.Over)
	}
	var local [1024]byte
	buf, ends := local[:0], [textCount]int{}
	for i := range in {
		buf = appendClean(buf, in[i], textMax[i])
		ends[i] = len(buf)
	}
	all, start := string(buf), 0
	for i, end := range ends {
		r.text[i] = all[start:end]
		start = end
	}
	r.bytes += len(all) + rowOverhead
	return r
}

// summed makes a row of a decision that is only added up.
func summed(d *policy.Decision) row {
	r := row{seq: d.Seq, at: ms(d.At.Wall), boot: d.At.Boot, flags: flagsOf(d), verdict: d.Verdict, would: d.Would, bytes: rowOverhead, summed: true}
	if d.Submission != nil {
		r.recipients = int64(d.Submission.Recipients)
	}
	r.text[textAccount] = clean(d.Identity.Account, textMax[textAccount])
	return r
}

// rowOverhead is about what a row takes beside its texts.
const rowOverhead = 384

// subjectOf is the Subject for people: decoded.
func subjectOf(raw string) string {
	for i := 0; i < len(raw); i++ {
		if raw[i] < ' ' || raw[i] > '~' || raw[i] == '=' && i+1 < len(raw) && raw[i+1] == '?' {
			_, exact := policy.FoldSubject(raw)
			return exact
		}
	}
	return raw
}

// Over is one trigger that a message was over, as explain shows it.
type Over struct {
	Trigger string `json:"trigger"`
	Watch   string `json:"watch"`
	Key     string `json:"key"`
	Mode    string `json:"mode"`
	Verdict string `json:"verdict"`
	Used    int64  `json:"used"`
	Units   int64  `json:"units"`
	Max     int64  `json:"max"`
	Per     Period `json:"per"`
	Count   string `json:"count"`
	FreeAt  Time   `json:"free_at"`
}

// maxOver is how many of the triggers that a message was over are kept.
const maxOver = 4

// overJSON writes the first triggers that fit into the column.
func overJSON(over []policy.Over) string {
	if len(over) > maxOver {
		over = over[:maxOver]
	}
	list := make([]Over, len(over))
	for i := range over {
		o := &over[i]
		list[i] = Over{
			Trigger: clean(o.Trigger, textMax[textTrigger]), Watch: o.Watch.String(), Key: clean(o.Key, 700), Mode: o.Mode.String(),
			Verdict: o.Verdict.String(), Used: o.Used, Units: o.Units, Max: o.Max, Per: Period(o.Per), Count: o.Count.String(), FreeAt: Time{o.FreeAt},
		}
	}
	for len(list) > 0 {
		if b, err := json.Marshal(list); err == nil && len(b) <= textMax[textOver] {
			return string(b)
		}
		list = list[:len(list)-1]
	}
	return ""
}

// eventMessage is one message of an event.
type eventMessage struct {
	event int64
	seq   uint64
}

// queue holds what waits for the writer.
type queue struct {
	full chan struct{} // a whole batch waits

	mu       sync.Mutex // guards what follows
	rows     []row
	taken    []row                  // by the writer, and not yet written
	events   map[int64]policy.Event // the newest state of each
	messages []eventMessage
	waiting  int // rows, with those that were taken
	bytes    int // theirs
	dropped  uint64
	gapFrom  int64 // at of the first one dropped since the last report
	gapTo    int64
	gapCount uint64
	closed   bool
}

func newQueue() *queue {
	return &queue{full: make(chan struct{}, 1), events: make(map[int64]policy.Event)}
}

// add takes a row unless there is no room for one like it.
func (q *queue) add(r row) bool {
	rows, bytes := queueRows, queueBytes
	switch {
	case sourceOf(r.flags) == policy.SourceDirect:
		rows, bytes = rows/2, bytes/2
	case r.verdict == policy.Accept:
		rows, bytes = rows*3/4, bytes*3/4
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.waiting >= rows || q.bytes+r.bytes > bytes {
		q.drop(r.at)
		return false
	}
	q.rows = append(q.rows, r)
	q.waiting++
	q.bytes += r.bytes
	if len(q.rows) == batchRows {
		select {
		case q.full <- struct{}{}:
		default: // the writer knows already
		}
	}
	return true
}

// drop counts a decision that cannot be kept. The caller holds mu.
func (q *queue) drop(at int64) {
	if q.gapCount == 0 {
		q.gapFrom = at
	}
	q.dropped++
	q.gapCount++
	q.gapTo = at
}

// addEvent takes the newest state of an event, and one more message of it.
func (q *queue) addEvent(e policy.Event, seq uint64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, known := q.events[e.ID]; q.closed || !known && len(q.events) >= queueEvents {
		return false
	}
	q.events[e.ID] = e
	if seq != 0 && len(q.messages) < queueRows {
		q.messages = append(q.messages, eventMessage{e.ID, seq})
	}
	return true
}

// load is what the writer takes out of the queue at once.
type load struct {
	rows     []row
	events   map[int64]policy.Event
	messages []eventMessage
}

func (l *load) empty() bool { return len(l.rows) == 0 && len(l.events) == 0 && len(l.messages) == 0 }

// take empties the queue. What was taken counts as waiting until done is called. spare
// is an emptied slice to be used again.
func (q *queue) take(spare []row) load {
	if cap(spare) > 8*batchRows {
		spare = nil // a flood is over: give its memory back
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	l := load{rows: q.rows, messages: q.messages}
	q.rows, q.taken, q.messages = spare[:0], q.rows, nil
	if len(q.events) > 0 {
		l.events = q.events
		q.events = make(map[int64]policy.Event)
	}
	return l
}

// done says that the first rows of those that were taken were written (or given up).
func (q *queue) done(rows []row) {
	bytes := 0
	for i := range rows {
		bytes += rows[i].bytes
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.taken = q.taken[len(rows):]
	q.waiting -= len(rows)
	q.bytes -= bytes
}

// lost counts rows that the writer had to give up, and that are done.
func (q *queue) lost(rows []row) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range rows {
		q.drop(rows[i].at)
	}
}

// gap tells which decisions were dropped since it was last called.
func (q *queue) gap() (n uint64, from, to time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, from, to = q.gapCount, moment(q.gapFrom), moment(q.gapTo)
	q.gapCount = 0
	return n, from, to
}

// close lets nothing in any more.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}

// depth is how much waits, in rows and bytes, and how much was dropped ever.
func (q *queue) depth() (rows, bytes int, dropped uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting, q.bytes, q.dropped
}

// oldest is when the decision was made that waits longest; zero if none waits.
func (q *queue) oldest() time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, rows := range [][]row{q.taken, q.rows} {
		if len(rows) > 0 {
			return moment(rows[0].at)
		}
	}
	return time.Time{}
}

// gapped reports whether decisions were dropped that nobody was told of.
func (q *queue) gapped() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.gapCount > 0
}
