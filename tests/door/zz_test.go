package door

import (
	"fmt"
	"strings"
	"testing"
)

func TestZZ(t *testing.T) {
	w := start(t)
	a, v := w.next(), w.next()
	f := &forger{attacker: a, victim: v}
	f.mail.Subject = "zz"
	for _, args := range [][]string{{"-bs"}, {"-bS"}} {
		cmd := machine.As(t.Context(), a, www(a), "/usr/sbin/exim4", args...)
		cmd.Stdin = strings.NewReader(f.smtpSession())
		out, err := cmd.CombinedOutput()
		fmt.Printf("%v: %s %v\n", args, out, err)
	}
	for _, l := range machine.LogLinesFrom(w.logFrom) {
		fmt.Println(l)
	}
}
