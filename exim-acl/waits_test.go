package eximacl

import (
	"io"
	"testing"

	"osm/policy"
)

func TestPeerWaitsUntilItClosesItsEnd(t *testing.T) {
	asked, closed, waits := make(chan bool), make(chan bool), make(chan bool)
	path := start(t, &Server{Check: func(c Conn, _ *policy.Submission) *policy.Decision {
		c.Wait()
		asked <- c.PeerWaits()
		<-closed
		waits <- c.PeerWaits()
		return decide(policy.Accept, "r")
	}})
	for _, tt := range []struct {
		name  string
		close bool
	}{{"a peer that only stopped sending", false}, {"a peer that has closed", true}} {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, path)
			if _, err := io.WriteString(c, "osm=1\n\n"); err != nil {
				t.Fatal(err)
			}
			c.CloseWrite()
			if !<-asked {
				t.Error("right after its question: it does not wait")
			}
			if tt.close {
				c.Close()
			}
			closed <- true
			if got := <-waits; got == tt.close {
				t.Errorf("waits: %v, want %v", got, !tt.close)
			}
		})
	}
}
