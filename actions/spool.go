package actions

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Bounds of one -H file. Exim's own limit for a message's headers is 1 MiB; what stands
// before them is a few hundred bytes, the list of recipients, and the certificate of the
// client, which is skipped.
const (
	maxSpoolHeader = 4 << 20
	maxSpoolLine   = 16 << 10 // longer lines are cut
	maxACLValue    = 4 << 10  // of acl_m_osm; our answer is at most 1 KiB
)

var (
	errSpoolFormat = errors.New("not in the format of Exim's -H file")
	errSpoolCut    = errors.New("the -H file ends early")
)

// spoolFile reads one -H file from front to back (Exim's spec, chapter 56). Every byte of
// it may be a stranger's: lengths are checked before they are used.
type spoolFile struct {
	r *bufio.Reader
}

func newSpoolFile(r io.Reader) *spoolFile {
	return &spoolFile{r: bufio.NewReaderSize(io.LimitReader(r, maxSpoolHeader), maxSpoolLine)}
}

func (f *spoolFile) reset(r io.Reader) { f.r.Reset(io.LimitReader(r, maxSpoolHeader)) }

// line returns the next line without its end, cut at maxSpoolLine. It is valid until the
// next call. The last line must be whole.
func (f *spoolFile) line() ([]byte, error) {
	b, err := f.r.ReadSlice('\n')
	if err == nil {
		return b[:len(b)-1], nil
	}
	if !errors.Is(err, bufio.ErrBufferFull) {
		return nil, errSpoolCut
	}
	head := bytes.Clone(b)
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = f.r.ReadSlice('\n')
	}
	if err != nil {
		return nil, errSpoolCut
	}
	return head, nil
}

// envelope reads the file up to the number of recipients. What it could read stands in m
// even when the error is not nil; variables tells whether all of Exim's variables were
// read, so that m's Ref, Action and FrozenSince can be relied on.
func (f *spoolFile) envelope(id string) (m QueueMessage, variables bool, err error) {
	m.MessageID = id
	first, err := f.line()
	if err != nil {
		return m, false, err
	}
	if string(first) != id+"-H" {
		return m, false, errSpoolFormat
	}
	if err := f.fixedLines(&m); err != nil {
		return m, false, err
	}
	line, err := f.variables(&m)
	if err != nil {
		return m, false, err
	}
	if line, err = f.skipTree(line); err != nil {
		return m, true, err
	}
	n, err := strconv.Atoi(string(line))
	if err != nil || n < 0 {
		return m, true, errSpoolFormat
	}
	m.Recipients = n
	return m, true, nil
}

// fixedLines reads the caller, the envelope sender and the time of arrival.
func (f *spoolFile) fixedLines(m *QueueMessage) error {
	line, err := f.line()
	if err != nil {
		return err
	}
	// A login may hold a blank: the numbers are found from the end, as Exim does.
	login, _, ok := cutLast(string(line), ' ')
	if !ok {
		return errSpoolFormat
	}
	login, uid, ok := cutLast(login, ' ')
	if !ok {
		return errSpoolFormat
	}
	m.CallerLogin = cut(login, 64)
	if m.CallerUID, err = strconv.ParseInt(uid, 10, 64); err != nil {
		return errSpoolFormat
	}
	if line, err = f.line(); err != nil {
		return err
	}
	if len(line) < 2 || line[0] != '<' || line[len(line)-1] != '>' {
		return errSpoolFormat
	}
	m.EnvelopeSender = cut(string(line[1:len(line)-1]), 512)
	if line, err = f.line(); err != nil {
		return err
	}
	received, _, _ := strings.Cut(string(line), " ")
	m.ReceivedAt, err = unixTime(received)
	return err
}

// variables reads the lines that begin with "-" and returns the first that does not.
func (f *spoolFile) variables(m *QueueMessage) ([]byte, error) {
	for {
		line, err := f.line()
		if err != nil {
			return nil, err
		}
		if len(line) == 0 || line[0] != '-' {
			return line, nil
		}
		name, value, _ := strings.Cut(variableName(line), " ")
		switch name {
		case "aclm", "aclc":
			if err := f.aclVariable(m, name, value); err != nil {
				return nil, err
			}
		case "frozen":
			if m.FrozenSince, err = unixTime(value); err != nil {
				return nil, err
			}
		case "manual_thaw":
			m.Thawed = true
		case "auth_id":
			m.AuthenticatedID = cut(value, 256)
		case "host_auth":
			m.Authenticator = cut(value, 64)
		case "host_address":
			addr, _, _ := cutLast(value, '.') // address.port
			m.ClientIP = cut(addr, 64)
		}
	}
}

// variableName takes the mark of a tainted value off: "--name", or from 4.97
// "--(quoter)name".
func variableName(line []byte) string {
	s := strings.TrimPrefix(string(line[1:]), "-")
	if strings.HasPrefix(s, "(") {
		if _, after, ok := strings.Cut(s, ")"); ok {
			return after
		}
	}
	return s
}

// aclVariable reads the value of an ACL variable, whose line tells its length. The value
// may hold anything, lines that look like variables included: only the length counts.
func (f *spoolFile) aclVariable(m *QueueMessage, class, nameAndLength string) error {
	name, length, ok := strings.Cut(nameAndLength, " ")
	n, err := strconv.Atoi(length)
	if !ok || err != nil || n < 0 || n > maxSpoolHeader {
		return errSpoolFormat
	}
	if class != "aclm" || name != "_osm" {
		return f.skip(n)
	}
	if n > maxACLValue {
		return errSpoolFormat
	}
	value := make([]byte, n)
	if _, err := io.ReadFull(f.r, value); err != nil {
		return errSpoolCut
	}
	ourAnswer(string(value)).into(m)
	return f.skip(0)
}

// skip passes over n bytes and the line end behind them.
func (f *spoolFile) skip(n int) error {
	if _, err := f.r.Discard(n); err != nil {
		return errSpoolCut
	}
	if c, err := f.r.ReadByte(); err != nil || c != '\n' {
		return errSpoolFormat
	}
	return nil
}

// skipTree passes over the tree of recipients that are done and returns the line behind it.
// Each node's line begins with two letters that tell whether a left and a right branch
// follow; an empty tree is "XX".
func (f *spoolFile) skipTree(line []byte) ([]byte, error) {
	if string(line) == "XX" {
		return f.line()
	}
	var err error
	for open := 1; open > 0; open-- {
		if len(line) < 3 || line[2] != ' ' {
			return nil, errSpoolFormat
		}
		for _, c := range line[:2] {
			switch c {
			case 'Y':
				open++
			case 'N':
			default:
				return nil, errSpoolFormat
			}
		}
		if line, err = f.line(); err != nil {
			return nil, err
		}
	}
	return line, nil
}

// headers returns the message's header lines as they will be sent, at most limit bytes.
// It is called after envelope, which has left off at the recipients.
func (f *spoolFile) headers(recipients, limit int) (string, error) {
	for range recipients {
		if _, err := f.line(); err != nil {
			return "", err
		}
	}
	if line, err := f.line(); err != nil || len(line) != 0 {
		return "", errSpoolFormat
	}
	var out strings.Builder
	for out.Len() < limit {
		head, err := f.r.Peek(1)
		if err != nil || len(head) == 0 {
			break // the end of the file is the end of the headers
		}
		text, deleted, err := f.header(limit - out.Len())
		if err != nil {
			return "", err
		}
		if !deleted {
			out.WriteString(text)
		}
	}
	return out.String(), nil
}

// header reads one header line: its length in at least three digits, a letter for its
// kind ("*" = replaced by Exim), a blank, the text with its line end.
func (f *spoolFile) header(limit int) (text string, deleted bool, err error) {
	n := 0
	for digits := 0; ; digits++ {
		c, err := f.r.ReadByte()
		if err != nil || digits > 8 {
			return "", false, errSpoolFormat
		}
		if c < '0' || c > '9' {
			if digits < 3 {
				return "", false, errSpoolFormat
			}
			deleted = c == '*'
			break
		}
		n = n*10 + int(c-'0')
	}
	if c, err := f.r.ReadByte(); err != nil || c != ' ' {
		return "", false, errSpoolFormat
	}
	take := min(n, limit)
	b := make([]byte, take)
	if _, err := io.ReadFull(f.r, b); err != nil {
		return "", false, errSpoolCut
	}
	if _, err := f.r.Discard(n - take); err != nil {
		return "", false, errSpoolCut
	}
	return string(b), deleted, nil
}

// stopped is what our answer says of a message that it stopped.
type stopped struct {
	action, ref, trigger string
	hold                 int64
	whenFree             bool
}

func (a stopped) into(m *QueueMessage) {
	m.Action, m.Ref, m.Trigger, m.HoldID, m.WhenFree = a.action, a.ref, a.trigger, a.hold, a.whenFree
}

// ourAnswer reads the answer that the ACL kept in acl_m_osm. All is empty unless it is
// whole (its marker osm=1) and stopped the message by freezing or discarding it.
func ourAnswer(s string) (a stopped) {
	marked := false
	for s = strings.TrimLeft(s, " \t\r\n"); s != ""; s = strings.TrimLeft(s, " \t\r\n") {
		var name, value string
		if name, value, s = nextWord(s); name == "" {
			return stopped{}
		}
		switch name {
		case "action":
			a.action = value
		case "ref":
			a.ref = value
		case "release":
			a.whenFree = value == "when-free"
		case "log":
			a.trigger, a.hold = loggedReason(value)
		case "osm":
			marked = value == "1"
		}
	}
	if !marked || !validRef(a.ref) || (a.action != "freeze" && a.action != "discard") {
		return stopped{}
	}
	return a
}

// loggedReason reads from the line for Exim's log which trigger or hold decided.
func loggedReason(log string) (trigger string, hold int64) {
	for word := range strings.FieldsSeq(log) {
		if name, ok := strings.CutPrefix(word, "trigger="); ok && trigger == "" {
			trigger = cut(name, 64)
		} else if id, ok := strings.CutPrefix(word, "hold="); ok {
			hold, _ = strconv.ParseInt(id, 10, 64) // 0 where it is none
		}
	}
	return trigger, hold
}

// nextWord takes one name=value off s; a value in double quotes may hold anything, with \"
// and \\ for the quote and the backslash.
func nextWord(s string) (name, value, rest string) {
	name, rest, ok := strings.Cut(s, "=")
	if !ok || strings.ContainsAny(name, " \t\"") {
		return "", "", ""
	}
	if !strings.HasPrefix(rest, `"`) {
		end := strings.IndexAny(rest, " \t\r\n")
		if end < 0 {
			end = len(rest)
		}
		return name, rest[:end], rest[end:]
	}
	var b strings.Builder
	for i := 1; i < len(rest); i++ {
		switch c := rest[i]; {
		case c == '"':
			return name, b.String(), rest[i+1:]
		case c == '\\' && i+1 < len(rest):
			i++
			b.WriteByte(rest[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", "", "" // no closing quote
}

func validRef(s string) bool {
	if len(s) < 4 || len(s) > 32 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

func unixTime(s string) (time.Time, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || n < 0 || n > 1<<36 {
		return time.Time{}, fmt.Errorf("time %.20q: %w", s, errSpoolFormat)
	}
	return time.Unix(n, 0).UTC(), nil
}

func cutLast(s string, sep byte) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// cut shortens a stranger's text to at most n bytes of valid UTF-8.
func cut(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "�")
}
