package lab

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if err := Enter(); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// The lab itself: an unguarded Exim takes mail by every path and delivers to the sink.
func TestEveryPathDeliversToTheSinkWithoutTheGuard(t *testing.T) {
	dir, err := os.MkdirTemp("", "osm-lab-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := New(Options{Dir: dir, Accounts: []string{"shop", "blog"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	if err := l.StartExim(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	m := func(path string) Mail {
		return Mail{From: "a@shop.example", To: []string{"x@else.example"}, Subject: path}
	}
	if n, err := l.PHP(ctx, "shop", l.HomeOf("shop")+"/public_html", 2, m("php")); err != nil || n != 2 {
		t.Fatalf("php mail(): %d sent, %v", n, err)
	}
	if err := l.Sendmail(ctx, "shop", l.HomeOf("shop"), m("sendmail")); err != nil {
		t.Fatal(err)
	}
	if err := l.LoopbackSMTP(ctx, "blog", m("loopback")); err != nil {
		t.Fatal(err)
	}
	login, password := l.Login("blog")
	if err := l.SendSMTP(ctx, login, password, m("auth")); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"php": 2, "sendmail": 1, "loopback": 1, "auth": 1}
	err = WaitFor(20*time.Second, "deliveries", func() error {
		for subject, n := range want {
			if got := l.Sink.Count("Subject", subject); got != n {
				return fmt.Errorf("%s: %d deliveries, want %d", subject, got, n)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err, l.LogLines())
	}
}
