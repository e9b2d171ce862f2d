package door

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"osm/policy"
)

// flooding is what the role "flood" gets: so many messages of one mailbox, each with a
// Subject of its own.
type flooding struct {
	Socket, Login string
	N, Clients    int
}

// flooded is what came of it.
type flooded struct {
	Accepted   int
	FirstError string
	Took       time.Duration
}

func floodRole(in io.Reader) (any, error) {
	var f flooding
	if err := json.NewDecoder(in).Decode(&f); err != nil {
		return nil, err
	}
	var next, accepted atomic.Int64
	var first atomic.Pointer[string]
	var wg sync.WaitGroup
	began := time.Now()
	for range f.Clients {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(f.N); i = next.Add(1) - 1 {
				answer, err := exchange(f.Socket, request(&policy.Submission{
					MessageID: "1vN3xQ-000abc-2F", Protocol: "esmtpsa", CallerUID: -1, Recipients: 1, Subject: words(i),
					AuthenticatedID: f.Login, Authenticator: "plain", ClientIP: netip.MustParseAddr("192.0.2.7"),
				}), false)
				if err == nil && bytes.HasPrefix(answer, []byte("action=accept ")) {
					accepted.Add(1)
					continue
				}
				text := fmt.Sprintf("question %d: %q, %v", i, answer, err)
				first.CompareAndSwap(nil, &text)
			}
		})
	}
	wg.Wait()
	out := flooded{Accepted: int(accepted.Load()), Took: time.Since(began)}
	if text := first.Load(); text != nil {
		out.FirstError = *text
	}
	return out, nil
}

// words writes a number in letters, so that the folding of Subjects keeps it apart.
func words(n int64) string {
	text := []byte("offer ")
	for range 4 {
		text = append(text, byte('a'+n%26))
		n /= 26
	}
	return string(text)
}
