package evidence

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"strings"
)

// As much of a FastCGI client as it takes to ask php-fpm for its status: one request on a
// connection, as responder, without a body. Records are an 8 byte head (version, type,
// request id, length, padding, 0), the content and the padding, numbers big-endian.
const (
	fcgiVersion   = 1
	fcgiBegin     = 1
	fcgiEnd       = 3
	fcgiParams    = 4
	fcgiStdin     = 5
	fcgiStdout    = 6
	fcgiStderr    = 7
	fcgiResponder = 1
	fcgiID        = 1
	fcgiHead      = 8
)

// appendFCGIRequest writes a whole request with these parameters, each a pair.
func appendFCGIRequest(dst []byte, params [][2]string) []byte {
	dst = appendRecord(dst, fcgiBegin, []byte{0, fcgiResponder, 0, 0, 0, 0, 0, 0})
	var b []byte
	for _, p := range params {
		b = appendLength(appendLength(b, len(p[0])), len(p[1]))
		b = append(append(b, p[0]...), p[1]...)
	}
	dst = appendRecord(dst, fcgiParams, b)
	dst = appendRecord(dst, fcgiParams, nil)
	return appendRecord(dst, fcgiStdin, nil)
}

func appendRecord(dst []byte, kind byte, content []byte) []byte {
	dst = append(dst, fcgiVersion, kind, 0, fcgiID)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(content)))
	return append(append(dst, 0, 0), content...)
}

func appendLength(dst []byte, n int) []byte {
	if n < 128 {
		return append(dst, byte(n))
	}
	return binary.BigEndian.AppendUint32(dst, uint32(n)|1<<31)
}

// readFCGIAnswer returns what the request wrote, at most limit bytes, once it has ended.
func readFCGIAnswer(r io.Reader, limit int) ([]byte, error) {
	in := bufio.NewReader(r)
	var out []byte
	for {
		var head [fcgiHead]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return nil, fmt.Errorf("read a FastCGI answer: %w", eofIsUnexpected(err))
		}
		if head[0] != fcgiVersion || binary.BigEndian.Uint16(head[2:]) != fcgiID {
			return nil, errors.New("read a FastCGI answer: not a record of this request")
		}
		length := int(binary.BigEndian.Uint16(head[4:]))
		content := make([]byte, length+int(head[6]))
		if _, err := io.ReadFull(in, content); err != nil {
			return nil, fmt.Errorf("read a FastCGI answer: %w", eofIsUnexpected(err))
		}
		switch head[1] {
		case fcgiStdout:
			if out = append(out, content[:length]...); len(out) > limit {
				return nil, fmt.Errorf("read a FastCGI answer: more than %d bytes", limit)
			}
		case fcgiStderr: // for the server's log, where it is already
		case fcgiEnd:
			if length < 8 || content[4] != 0 {
				return nil, errors.New("read a FastCGI answer: the request was refused")
			}
			return out, nil
		default:
			return nil, fmt.Errorf("read a FastCGI answer: a record of type %d", head[1])
		}
	}
}

// cgiBody splits a CGI answer and returns its body if its status is good.
func cgiBody(answer []byte) ([]byte, error) {
	in := bufio.NewReader(bytes.NewReader(answer))
	head, err := textproto.NewReader(in).ReadMIMEHeader()
	if err != nil {
		return nil, fmt.Errorf("read a CGI answer: %w", eofIsUnexpected(err))
	}
	if status := head.Get("Status"); status != "" && !strings.HasPrefix(status, "200") {
		return nil, badStatus(status)
	}
	return io.ReadAll(in)
}

// badStatus is the status of a CGI answer that is not the page.
type badStatus string

func (s badStatus) Error() string { return fmt.Sprintf("status %.40q", string(s)) }

func (s badStatus) busy() bool {
	return strings.HasPrefix(string(s), "500") || strings.HasPrefix(string(s), "503")
}
