package door

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"osm/tests/lab"
)

// path is one way in which mail is submitted. send submits n messages one after the other,
// and fails unless Exim took every one of them.
type path struct {
	name   string
	source string // the product's word for it
	send   func(ctx context.Context, account string, n int, m lab.Mail) error
}

// paths are all ways of an account.
func paths() []path {
	return []path{
		{"PHP mail()", "script", byPHP},
		{"sendmail", "script", bySendmail},
		{"loopback SMTP", "local", byLoopback},
		{"SMTP AUTH", "login", byLogin},
	}
}

// www is the folder of an account's web site.
func www(account string) string { return filepath.Join(machine.HomeOf(account), "public_html") }

func byPHP(ctx context.Context, account string, n int, m lab.Mail) error {
	sent, err := machine.PHP(ctx, account, www(account), n, m)
	if err == nil && sent != n {
		err = fmt.Errorf("mail() said true %d times of %d", sent, n)
	}
	return err
}

func bySendmail(ctx context.Context, account string, n int, m lab.Mail) error {
	for range n {
		if err := machine.Sendmail(ctx, account, www(account), m); err != nil {
			return err
		}
	}
	return nil
}

func byLoopback(ctx context.Context, account string, n int, m lab.Mail) error {
	for range n {
		if err := machine.LoopbackSMTP(ctx, account, m); err != nil {
			return err
		}
	}
	return nil
}

func byLogin(ctx context.Context, account string, n int, m lab.Mail) error {
	login, password := machine.Login(account)
	return inSession(ctx, "", login, password, n, m)
}

// inSession sends n messages on one SMTP connection.
func inSession(ctx context.Context, clientIP, login, password string, n int, m lab.Mail) error {
	s, err := machine.Dial(ctx, clientIP, login, password)
	if err != nil {
		return err
	}
	defer s.Hangup()
	for range n {
		if err := s.Send(m); err != nil {
			return err
		}
	}
	return nil
}

// atOnce runs f in so many goroutines and waits for them.
func atOnce(n int, f func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
