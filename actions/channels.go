package actions

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/syslog"
	"net"
	"net/http"
	"net/smtp"
	"time"

	"osm/internal/report"
)

// sendMail hands one message to the mail server of this host. It says HELO as localhost:
// the server need not believe more.
func sendMail(ctx context.Context, addr, from, to string, message []byte) error {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("hand a report to the mail server on %s: %w", addr, err)
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		c.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	client, err := smtp.NewClient(c, "localhost")
	if err != nil {
		return fmt.Errorf("greet the mail server on %s: %w", addr, err)
	}
	if err := client.Mail(from); err != nil {
		return fmt.Errorf("sender %s: %w", from, err)
	}
	if err := client.Rcpt(to); err != nil {
		return fmt.Errorf("recipient %s: %w", to, err)
	}
	w, err := client.Data()
	if err != nil {
		return fmt.Errorf("hand over a report: %w", err)
	}
	_, err = w.Write(message)
	if err := errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("hand over a report: %w", err)
	}
	_ = client.Quit() // it has it
	return nil
}

// post sends a report to the operator's own address, signed. It follows no redirection:
// the signature is for one receiver.
func (n *Notifier) post(ctx context.Context, r *report.Report, s *NotifySettings) (string, error) {
	body, err := r.Encode(report.JSON)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Webhook, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "osm/"+n.o.Version)
	if len(s.Secret) > 0 {
		req.Header.Set(report.SignatureHeader, report.Sign(s.Secret, n.o.Now().Wall, body))
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("call the webhook: %w", err)
	}
	defer resp.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
	if resp.StatusCode/100 != 2 {
		return "", fmt.Errorf("the webhook answered %s: %.200q", resp.Status, said)
	}
	return resp.Status, nil
}

// writeSyslog writes one line to the host's log.
func writeSyslog(r *report.Report) error {
	w, err := syslog.New(syslog.LOG_MAIL|syslog.LOG_WARNING, "osm")
	if err != nil {
		return fmt.Errorf("open the system's log: %w", err)
	}
	defer w.Close()
	if _, err := fmt.Fprintf(w, "event %d: %s", r.Event.ID, r.Summary); err != nil {
		return fmt.Errorf("write to the system's log: %w", err)
	}
	return nil
}
