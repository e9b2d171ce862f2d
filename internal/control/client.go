package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"
)

// DefaultSocket is where the daemon listens unless it is told otherwise.
const DefaultSocket = "/run/osm/control.sock"

// Client asks the daemon on its control socket.
type Client struct {
	socket string
	http   http.Client
	// Headers that root asserts for whom it asks; see the package comment.
	Assert http.Header
	// Timeout of one request; a stream has none.
	Timeout time.Duration
}

// NewClient returns a client for the control socket at path.
func NewClient(path string) *Client {
	c := &Client{socket: path, Timeout: maxWork + 10*time.Second}
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			d := net.Dialer{Timeout: 5 * time.Second}
			return d.DialContext(ctx, "unix", path)
		},
		MaxIdleConns: 2, IdleConnTimeout: 10 * time.Second, DisableCompression: true,
	}
	return c
}

// Close lets go of connections that are kept for the next request.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// maxAnswer bounds what is taken from the daemon in one answer.
const maxAnswer = 64 << 20

// Do sends one request and reads its answer into out. body and out may be nil. An error
// of the daemon's is an [*Error].
func (c *Client) Do(ctx context.Context, method, path string, query url.Values, body, out any) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	resp, err := c.send(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if raw, ok := out.(*[]byte); ok {
		*raw, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	} else {
		err = json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out)
	}
	if err != nil {
		return fmt.Errorf("read the daemon's answer to %s %s: %w", method, path, err)
	}
	return nil
}

func (c *Client) send(ctx context.Context, method, path string, query url.Values, body any) (*http.Response, error) {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("write the request %s %s: %w", method, path, err)
		}
		r = bytes.NewReader(b)
	}
	u := "http://osmd" + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, r)
	if err != nil {
		return nil, fmt.Errorf("write the request %s %s: %w", method, path, err)
	}
	for name, values := range c.Assert {
		req.Header[name] = values
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if resp.StatusCode >= 400 {
		defer resp.Body.Close()
		return nil, refusal(resp)
	}
	return resp, nil
}

// refusal reads the daemon's error.
func refusal(resp *http.Response) error {
	e := &Error{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(e); err != nil || e.Message == "" {
		e.Message = "the daemon answered " + resp.Status
	}
	e.Status = resp.StatusCode
	return e
}

// unreachable says why the daemon could not be asked, and what to do.
func (c *Client) unreachable(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	e := &Error{Status: http.StatusServiceUnavailable, Message: fmt.Sprintf("the daemon cannot be asked on %s: %v", c.socket, cause(err))}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.Message = fmt.Sprintf("the daemon is not running: there is no socket %s", c.socket)
		e.Hint = "start it (systemctl start osmd, or osmd -config /etc/osm/osm.toml), or name its socket with -socket"
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Message = fmt.Sprintf("the daemon is not running: nobody answers on %s", c.socket)
		e.Hint = "start it (systemctl start osmd, or osmd -config /etc/osm/osm.toml) and look at its log (journalctl -u osmd)"
	case errors.Is(err, fs.ErrPermission):
		e.Message = fmt.Sprintf("you may not use %s", c.socket)
		e.Hint = "run this as root (sudo), or as a member of the group osm-admin; a new member logs in again first"
	case errors.Is(err, context.DeadlineExceeded):
		e.Hint = "it may be very busy or stopped: systemctl status osmd"
	}
	return e
}

// cause leaves out what the HTTP package says around an error.
func cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// get reads one value.
func get[T any](ctx context.Context, c *Client, path string, query url.Values) (T, error) {
	var v T
	err := c.Do(ctx, http.MethodGet, path, query, nil, &v)
	return v, err
}

// post sends one value and reads another.
func post[T any](ctx context.Context, c *Client, path string, body any) (T, error) {
	var v T
	err := c.Do(ctx, http.MethodPost, path, nil, body, &v)
	return v, err
}

// Query is what lists are asked for by; the zero value asks for everything.
type Query struct {
	Limit int
	After string
	Since string            // RFC 3339, or a Go duration back from now
	Where map[string]string // further parameters of the list
}

func (q Query) values() url.Values {
	v := url.Values{}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	if q.After != "" {
		v.Set("after", q.After)
	}
	if q.Since != "" {
		v.Set("since", q.Since)
	}
	for name, value := range q.Where {
		if value != "" {
			v.Set(name, value)
		}
	}
	return v
}

// Status asks how the daemon is doing.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return get[Status](ctx, c, "/v1/status", nil)
}

// Top asks who sent most.
func (c *Client) Top(ctx context.Context, q Query) (List[Top], error) {
	return get[List[Top]](ctx, c, "/v1/top", q.values())
}

// Usage asks for an account's counters.
func (c *Client) Usage(ctx context.Context, account string, q Query) (List[Usage], error) {
	return get[List[Usage]](ctx, c, "/v1/usage/"+url.PathEscape(account), q.values())
}

// Events asks who went over.
func (c *Client) Events(ctx context.Context, q Query) (List[Event], error) {
	return get[List[Event]](ctx, c, "/v1/events", q.values())
}

// Event asks for one event.
func (c *Client) Event(ctx context.Context, id int64) (Event, error) {
	return get[Event](ctx, c, fmt.Sprintf("/v1/events/%d", id), nil)
}

// Explain asks why a message was decided as it was, by its reference or message id.
func (c *Client) Explain(ctx context.Context, ref string) (Explanation, error) {
	return get[Explanation](ctx, c, "/v1/explain/"+url.PathEscape(ref), nil)
}

// Describe asks what would happen to a message.
func (c *Client) Describe(ctx context.Context, d Describe) (Explanation, error) {
	return post[Explanation](ctx, c, "/v1/explain", d)
}

// Held lists held mail.
func (c *Client) Held(ctx context.Context, q Query) (List[HeldMessage], error) {
	return get[List[HeldMessage]](ctx, c, "/v1/held", q.values())
}

// HeldMessage asks for one held message with its headers.
func (c *Client) HeldMessage(ctx context.Context, ref string) (HeldMessage, error) {
	return get[HeldMessage](ctx, c, "/v1/held/"+url.PathEscape(ref), nil)
}

// ReleaseHeld lets held mail go; DiscardHeld removes it for good.
func (c *Client) ReleaseHeld(ctx context.Context, s Settle) (Settled, error) {
	return post[Settled](ctx, c, "/v1/held/release", s)
}

// DiscardHeld removes held mail for good; its headers and event stay.
func (c *Client) DiscardHeld(ctx context.Context, s Settle) (Settled, error) {
	return post[Settled](ctx, c, "/v1/held/discard", s)
}

// Holds lists standing holds.
func (c *Client) Holds(ctx context.Context, q Query) (List[Hold], error) {
	return get[List[Hold]](ctx, c, "/v1/holds", q.values())
}

// PutHold puts a hold and returns it with its number.
func (c *Client) PutHold(ctx context.Context, h Hold) (Hold, error) {
	return post[Hold](ctx, c, "/v1/holds", h)
}

// EndHold ends a hold and returns it as it was.
func (c *Client) EndHold(ctx context.Context, id int64, reason string) (Hold, error) {
	var h Hold
	err := c.Do(ctx, http.MethodDelete, fmt.Sprintf("/v1/holds/%d", id), because(reason), nil, &h)
	return h, err
}

func because(reason string) url.Values {
	if reason == "" {
		return nil
	}
	return url.Values{"reason": {reason}}
}

// Reset forgets one counter.
func (c *Client) Reset(ctx context.Context, trigger, key, reason string) error {
	return c.Do(ctx, http.MethodPost, "/v1/reset", nil, ResetRequest{trigger, key, reason}, nil)
}

// Limits lists the limits set in file and database.
func (c *Client) Limits(ctx context.Context, q Query) (List[Limit], error) {
	return get[List[Limit]](ctx, c, "/v1/limits", q.values())
}

// SetLimit sets a limit and returns it as it stands.
func (c *Client) SetLimit(ctx context.Context, l Limit) (Limit, error) {
	var out Limit
	err := c.Do(ctx, http.MethodPut, "/v1/limits", nil, l, &out)
	return out, err
}

// RemoveLimit removes a limit that was set in the database.
func (c *Client) RemoveLimit(ctx context.Context, id int64, reason string) (Limit, error) {
	var out Limit
	err := c.Do(ctx, http.MethodDelete, fmt.Sprintf("/v1/limits/%d", id), because(reason), nil, &out)
	return out, err
}

// Exemptions lists exemptions with how often each was used.
func (c *Client) Exemptions(ctx context.Context, q Query) (List[Exemption], error) {
	return get[List[Exemption]](ctx, c, "/v1/exemptions", q.values())
}

// AddExemption adds an exemption.
func (c *Client) AddExemption(ctx context.Context, e Exemption) (Exemption, error) {
	return post[Exemption](ctx, c, "/v1/exemptions", e)
}

// RemoveExemption removes an exemption that was set in the database.
func (c *Client) RemoveExemption(ctx context.Context, id int64, reason string) (Exemption, error) {
	var out Exemption
	err := c.Do(ctx, http.MethodDelete, fmt.Sprintf("/v1/exemptions/%d", id), because(reason), nil, &out)
	return out, err
}

// Config lists every value in force and where it stands.
func (c *Client) Config(ctx context.Context, q Query) (List[ConfigSetting], error) {
	return get[List[ConfigSetting]](ctx, c, "/v1/config", q.values())
}

// ExportConfig returns the settings in force as an osm.toml.
func (c *Client) ExportConfig(ctx context.Context) (string, error) {
	b, err := get[[]byte](ctx, c, "/v1/config/export", nil)
	return string(b), err
}

// CheckConfig asks for the mistakes in the text of an osm.toml.
func (c *Client) CheckConfig(ctx context.Context, toml string) (List[string], error) {
	return post[List[string]](ctx, c, "/v1/config/check", ConfigText{TOML: toml})
}

// Reload makes the daemon read its file again.
func (c *Client) Reload(ctx context.Context) (Reloaded, error) {
	return post[Reloaded](ctx, c, "/v1/config/reload", nil)
}

// Audit lists who changed what.
func (c *Client) Audit(ctx context.Context, q Query) (List[AuditEntry], error) {
	return get[List[AuditEntry]](ctx, c, "/v1/audit", q.values())
}

// Rates asks what became of the messages in each piece of time: Where has account and
// step.
func (c *Client) Rates(ctx context.Context, q Query) (List[Bucket], error) {
	return get[List[Bucket]](ctx, c, "/v1/rates", q.values())
}

// Near asks which counters are close to their maximum.
func (c *Client) Near(ctx context.Context, q Query) (List[Near], error) {
	return get[List[Near]](ctx, c, "/v1/near", q.values())
}

// Accounts lists accounts, or those that match Where's q.
func (c *Client) Accounts(ctx context.Context, q Query) (List[Account], error) {
	return get[List[Account]](ctx, c, "/v1/accounts", q.values())
}

// Account asks for all about one account; since is as in [Query].
func (c *Client) Account(ctx context.Context, name, since string) (AccountDetail, error) {
	return get[AccountDetail](ctx, c, "/v1/accounts/"+url.PathEscape(name), Query{Since: since}.values())
}

// Decisions lists messages that were decided about: Where has account and verdict.
func (c *Client) Decisions(ctx context.Context, q Query) (List[Decision], error) {
	return get[List[Decision]](ctx, c, "/v1/decisions", q.values())
}

// Triggers lists every trigger as it is in force at a level for a name.
func (c *Client) Triggers(ctx context.Context, level, name string) (List[Effective], error) {
	return get[List[Effective]](ctx, c, "/v1/triggers", Query{Where: map[string]string{"level": level, "name": name}}.values())
}

// PreviewLimit asks what a limit would have done to the mail of the past; since is as in
// [Query].
func (c *Client) PreviewLimit(ctx context.Context, l Limit, remove int64, since string) (Preview, error) {
	return post[Preview](ctx, c, "/v1/preview", PreviewRequest{Limit: l, Remove: remove, Since: since})
}

// Settings lists the settings that can be changed while the daemon runs.
func (c *Client) Settings(ctx context.Context) (List[Setting], error) {
	return get[List[Setting]](ctx, c, "/v1/settings", nil)
}

// Set changes a setting; with nil the file's value comes back.
func (c *Client) Set(ctx context.Context, key string, value *string, reason string) (Setting, error) {
	var out Setting
	err := c.Do(ctx, http.MethodPut, "/v1/settings", nil, SettingRequest{Key: key, Value: value, Reason: reason}, &out)
	return out, err
}

// Undo takes one change of the audit back and returns the change that did it.
func (c *Client) Undo(ctx context.Context, id int64, reason string) (AuditEntry, error) {
	return post[AuditEntry](ctx, c, fmt.Sprintf("/v1/audit/%d/undo", id), UndoRequest{Reason: reason})
}

// Actions lists what followed events: Where has account, event, name and standing.
func (c *Client) Actions(ctx context.Context, q Query) (List[Action], error) {
	return get[List[Action]](ctx, c, "/v1/actions", q.values())
}

// UndoAction takes back what an action did. A panel's command may take minutes.
func (c *Client) UndoAction(ctx context.Context, id int64, reason string) (Action, error) {
	patient := *c
	patient.Timeout = maxUndo + 10*time.Second
	return post[Action](ctx, &patient, fmt.Sprintf("/v1/actions/%d/undo", id), UndoRequest{Reason: reason})
}

// NewLoginLink asks for a one-time way into the page.
func (c *Client) NewLoginLink(ctx context.Context, l LoginLink) (LoginLink, error) {
	return post[LoginLink](ctx, c, "/v1/login-links", l)
}

// RedeemLoginLink uses a link up and tells for whom it was.
func (c *Client) RedeemLoginLink(ctx context.Context, token string) (LoginLink, error) {
	return post[LoginLink](ctx, c, "/v1/login-links/redeem", RedeemRequest{Token: token})
}

// Doctor asks for the daemon's own checks.
func (c *Client) Doctor(ctx context.Context) (List[Check], error) {
	return get[List[Check]](ctx, c, "/v1/doctor", Query{Limit: maxLimit}.values())
}

// Backup asks for a copy of the database in a new file, which the daemon's user must
// be able to make.
func (c *Client) Backup(ctx context.Context, path string) (BackedUp, error) {
	patient := *c
	patient.Timeout = maxBackup + 10*time.Second
	return post[BackedUp](ctx, &patient, "/v1/backup", BackupRequest{Path: path})
}

// Connections lists connections that bypassed Exim: Where has account, directory, remote
// and uid.
func (c *Client) Connections(ctx context.Context, q Query) (List[Connection], error) {
	return get[List[Connection]](ctx, c, "/v1/connections", q.values())
}

// Tail calls f for each message as it is decided on, until ctx ends or f returns an error.
func (c *Client) Tail(ctx context.Context, q Query, f func(TailLine) error) error {
	return follow(ctx, c, "/v1/tail", q, func(l TailLine) error {
		if l.Idle {
			return nil
		}
		return f(l)
	})
}

// TailConnections calls f for each connection as it is seen: Where as in
// [Client.Connections].
func (c *Client) TailConnections(ctx context.Context, q Query, f func(ConnectionLine) error) error {
	return follow(ctx, c, "/v1/connections/tail", q, func(l ConnectionLine) error {
		if l.Idle {
			return nil
		}
		return f(l)
	})
}

// follow reads a stream of the daemon's, line by line.
func follow[T any](ctx context.Context, c *Client, path string, q Query, f func(T) error) error {
	resp, err := c.send(ctx, http.MethodGet, path, q.values(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	d := json.NewDecoder(resp.Body)
	for {
		var line T
		if err := d.Decode(&line); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return errors.New("the daemon ended the stream")
			}
			return fmt.Errorf("read the daemon's stream: %w", err)
		}
		if err := f(line); err != nil {
			return err
		}
	}
}
