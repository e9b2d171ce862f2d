package web

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"osm/tests/lab"
)

// What osmctl prints with --json, by the names that are promised.
type (
	heldMail struct {
		Ref       string `json:"ref"`
		MessageID string `json:"message_id"`
		Account   string `json:"account"`
		Subject   string `json:"subject"`
		State     string `json:"state"`
	}
	event struct {
		ID      int64  `json:"id"`
		Trigger string `json:"trigger"`
		Account string `json:"account"`
		Mode    string `json:"mode"`
	}
	numbered struct {
		ID      int64  `json:"id"`
		Account string `json:"account"`
		Name    string `json:"name"`
		Value   string `json:"value"`
		What    string `json:"what"` // of the audit
	}
)

func www(account string) string { return filepath.Join(machine.HomeOf(account), "public_html") }

func mailOf(account, subject string) lab.Mail {
	return lab.Mail{From: "info@" + machine.Domain(account), To: []string{"reader@elsewhere.example"}, Subject: subject}
}

// sendmail sends n messages from a folder of the account, as a script does; a %d in the
// Subject becomes the message's number.
func sendmail(t *testing.T, account, folder, subject string, n int) {
	t.Helper()
	dir := filepath.Join(www(account), folder)
	if err := machine.MakeDir(account, dir); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		s := subject
		if slices.Contains([]byte(subject), '%') {
			s = fmt.Sprintf(subject, i)
		}
		if err := machine.Sendmail(t.Context(), account, dir, mailOf(account, s)); err != nil {
			t.Fatal(err)
		}
	}
}

// php sends n messages from a folder of the account by PHP's own mail().
func php(t *testing.T, account, folder, subject string, n int) {
	t.Helper()
	sent, err := machine.PHP(t.Context(), account, filepath.Join(www(account), folder), n, mailOf(account, subject))
	if err != nil || sent != n {
		t.Fatalf("mail() said true for %d of %d messages: %v", sent, n, err)
	}
}

// login sends n messages by SMTP AUTH.
func login(t *testing.T, account, subject string, n int) {
	t.Helper()
	name, password := machine.Login(account)
	for range n {
		if err := machine.SendSMTP(t.Context(), name, password, mailOf(account, subject)); err != nil {
			t.Fatal(err)
		}
	}
}

// held waits until exactly n messages of the account are registered as held, and returns
// them.
func held(t *testing.T, account string, n int) []heldMail {
	t.Helper()
	var all []heldMail
	eventually(t, fmt.Sprintf("%d held messages of %s", n, account), func() error {
		all = list[heldMail](t, "held", "list", "--account", account)
		if len(all) != n {
			return fmt.Errorf("%d are held", len(all))
		}
		return nil
	})
	return all
}

// arrived waits until so many messages with the Subject have been delivered.
func arrived(t *testing.T, subject string, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d delivered messages %q", n, subject), func() error {
		if got := machine.Sink.Count("Subject", subject); got != n {
			return fmt.Errorf("%d were delivered", got)
		}
		return nil
	})
}

func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	if err := lab.WaitFor(30*time.Second, what, f); err != nil {
		t.Fatal(err)
	}
}
