package lab

import (
	"bufio"
	"fmt"
	"net"
	"net/mail"
	"strings"
	"sync"
	"time"
)

// SinkAddr is where all deliveries to outside end, in the lab's own namespace.
const SinkAddr = "127.0.0.1:2525"

// Delivery is one message that left Exim, as the sink received it.
type Delivery struct {
	At         time.Time
	Sender     string
	Recipients []string
	Header     mail.Header
}

// Refused begins the addresses that the sink refuses for good.
const Refused = "refused"

// Sink is a small SMTP server that takes everything, but for recipients whose address
// begins with Refused, and remembers it.
type Sink struct {
	mu         sync.Mutex
	deliveries []Delivery
	l          net.Listener
	wg         sync.WaitGroup
}

func (l *Lab) startSink() error {
	ln, err := net.Listen("tcp", SinkAddr)
	if err != nil {
		return fmt.Errorf("listen for deliveries: %w", err)
	}
	l.Sink = &Sink{l: ln}
	l.Sink.wg.Add(1)
	go l.Sink.accept()
	return nil
}

func (s *Sink) accept() {
	defer s.wg.Done()
	for {
		c, err := s.l.Accept()
		if err != nil {
			return
		}
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			defer c.Close()
			s.serve(c)
		}()
	}
}

// Close stops listening. Sessions end with their client.
func (s *Sink) Close() { _ = s.l.Close() }

// Deliveries returns what has arrived so far.
func (s *Sink) Deliveries() []Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Delivery(nil), s.deliveries...)
}

// Reset forgets what has arrived.
func (s *Sink) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deliveries = nil
}

// Count is the number of messages whose header name has the value.
func (s *Sink) Count(name, value string) int {
	n := 0
	for _, d := range s.Deliveries() {
		if d.Header.Get(name) == value {
			n++
		}
	}
	return n
}

func (s *Sink) serve(c net.Conn) {
	r := bufio.NewReader(c)
	say := func(line string) { fmt.Fprintf(c, "%s\r\n", line) }
	say("220 sink ESMTP")
	var d Delivery
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		verb := strings.ToUpper(strings.TrimSpace(line))
		switch {
		case strings.HasPrefix(verb, "EHLO"), strings.HasPrefix(verb, "HELO"):
			say("250 sink")
		case strings.HasPrefix(verb, "MAIL"):
			d = Delivery{Sender: between(line)}
			say("250 ok")
		case strings.HasPrefix(verb, "RCPT") && strings.HasPrefix(between(line), Refused):
			say("550 no such user here")
		case strings.HasPrefix(verb, "RCPT"):
			d.Recipients = append(d.Recipients, between(line))
			say("250 ok")
		case verb == "DATA":
			say("354 go on")
			d.Header, d.At = readMessage(r), time.Now()
			s.mu.Lock()
			s.deliveries = append(s.deliveries, d)
			s.mu.Unlock()
			say("250 taken")
		case verb == "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

func between(line string) string {
	_, rest, _ := strings.Cut(line, "<")
	addr, _, _ := strings.Cut(rest, ">")
	return addr
}

func readMessage(r *bufio.Reader) mail.Header {
	var text strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil || line == ".\r\n" {
			break
		}
		text.WriteString(line)
	}
	m, err := mail.ReadMessage(strings.NewReader(text.String()))
	if err != nil {
		return mail.Header{}
	}
	return m.Header
}
