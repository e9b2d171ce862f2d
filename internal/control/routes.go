package control

import (
	"context"
	"strconv"
	"time"
)

// Page is which part of a list is asked for.
type Page struct {
	Limit int    // 1 to 1000
	After string // next of the page before; "" = the first
}

// ResetRequest names one counter.
type ResetRequest struct {
	Trigger string `json:"trigger"`
	Key     string `json:"key"`
	Reason  string `json:"reason,omitempty"`
}

// BackupRequest says where to put a copy of the database.
type BackupRequest struct {
	Path string `json:"path"`
}

// BackedUp is what came of it.
type BackedUp struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
}

// ConfigText is an osm.toml to be checked, as a text.
type ConfigText struct {
	TOML string `json:"toml"`
}

// Reloaded is what a reload changed.
type Reloaded struct {
	Path string `json:"path"`
	Text string `json:"text"`
}

// PreviewRequest is a limit to be tried on the mail of the past: that of the fields, or
// the removal of one by its number.
type PreviewRequest struct {
	Limit
	Remove int64  `json:"remove,omitempty"`
	Since  string `json:"since,omitempty"` // RFC 3339, or a Go duration back from now; "" = 168h
}

// SettingRequest changes a setting.
type SettingRequest struct {
	Key    string  `json:"key"`
	Value  *string `json:"value"` // null: the file's
	Reason string  `json:"reason,omitempty"`
}

// UndoRequest says why a change is taken back.
type UndoRequest struct {
	Reason string `json:"reason,omitempty"`
}

// RedeemRequest uses a login link up.
type RedeemRequest struct {
	Token string `json:"token"`
}

// ConfigSetting is one value in force and where it stands.
type ConfigSetting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"`
}

// routes are the operations by method and path.
func routes(s *Service) map[string]operation {
	r := map[string]operation{
		"GET /v1/status": plain(func(ctx context.Context, c *call) (Status, error) { return s.Status(ctx, c.actor) }),
		"GET /v1/doctor": listed(s, func(ctx context.Context, c *call, p Page, _ time.Time) (List[Check], error) {
			l, err := s.Doctor(ctx, c.actor)
			if err != nil {
				return l, err
			}
			return numbered(l.Items, p)
		}),
		"GET /v1/tail": tailOverHTTP(s),
		"GET /metrics": metricsOverHTTP(s),
		"POST /v1/backup": within(maxBackup, func(ctx context.Context, c *call) (BackedUp, error) {
			var b BackupRequest
			if err := c.read(&b); err != nil {
				return BackedUp{}, err
			}
			return s.Backup(ctx, c.actor, b.Path)
		}),
		"POST /v1/reset": plain(func(ctx context.Context, c *call) (struct{}, error) {
			var r ResetRequest
			if err := c.read(&r); err != nil {
				return struct{}{}, err
			}
			return struct{}{}, s.Reset(ctx, c.actor, r)
		}),
	}
	for _, more := range []map[string]operation{lookRoutes(s), senderRoutes(s), connectionRoutes(s), heldRoutes(s), ruleRoutes(s), changeRoutes(s), configRoutes(s)} {
		for pattern, op := range more {
			r[pattern] = op
		}
	}
	return r
}

// lookRoutes are the operations that change nothing.
func lookRoutes(s *Service) map[string]operation {
	return map[string]operation{
		"GET /v1/top": listed(s, func(ctx context.Context, c *call, p Page, since time.Time) (List[Top], error) {
			return s.Top(ctx, c.actor, since, c.URL.Query().Get("by"), p)
		}),
		"GET /v1/usage/{account}": listed(s, func(ctx context.Context, c *call, p Page, _ time.Time) (List[Usage], error) {
			return s.Usage(ctx, c.actor, c.PathValue("account"), p)
		}),
		"GET /v1/events": listed(s, func(ctx context.Context, c *call, p Page, since time.Time) (List[Event], error) {
			q := c.URL.Query()
			return s.Events(ctx, c.actor, EventFilter{Since: since, Account: q.Get("account"), Trigger: q.Get("trigger"), OpenOnly: q.Get("open") == "true"}, p)
		}),
		"GET /v1/events/{id}": plain(func(ctx context.Context, c *call) (Event, error) {
			id, err := c.number("id")
			if err != nil {
				return Event{}, err
			}
			return s.Event(ctx, c.actor, id)
		}),
		"GET /v1/explain/{ref}": plain(func(ctx context.Context, c *call) (Explanation, error) {
			return s.Explain(ctx, c.actor, c.PathValue("ref"))
		}),
		"POST /v1/explain": plain(func(ctx context.Context, c *call) (Explanation, error) {
			var d Describe
			if err := c.read(&d); err != nil {
				return Explanation{}, err
			}
			return s.Describe(ctx, c.actor, d)
		}),
		"GET /v1/actions": listed(s, func(ctx context.Context, c *call, p Page, since time.Time) (List[Action], error) {
			q := c.URL.Query()
			f := ActionFilter{Since: since, Account: q.Get("account"), Name: q.Get("name"), Standing: q.Get("standing") == "true"}
			if text := q.Get("event"); text != "" {
				var err error
				if f.Event, err = strconv.ParseInt(text, 10, 64); err != nil {
					return List[Action]{}, badRequest("event is %.40q: no number", text)
				}
			}
			return s.Actions(ctx, c.actor, f, p)
		}),
		"GET /v1/audit": listed(s, func(ctx context.Context, c *call, p Page, since time.Time) (List[AuditEntry], error) {
			return s.Audit(ctx, c.actor, since, p)
		}),
	}
}

// senderRoutes are the operations that tell who sends what.
func senderRoutes(s *Service) map[string]operation {
	return map[string]operation{
		"GET /v1/rates": listed(s, func(ctx context.Context, c *call, _ Page, since time.Time) (List[Bucket], error) {
			step, err := c.duration("step")
			if err != nil {
				return List[Bucket]{}, err
			}
			return s.Rates(ctx, c.actor, c.URL.Query().Get("account"), since, step)
		}),
		"GET /v1/near": listed(s, func(ctx context.Context, c *call, p Page, _ time.Time) (List[Near], error) {
			return s.Near(ctx, c.actor, p)
		}),
		"GET /v1/accounts": listed(s, func(ctx context.Context, c *call, p Page, _ time.Time) (List[Account], error) {
			if c.URL.Query().Get("reread") != "" {
				if err := s.reread(ctx, c.actor); err != nil {
					return List[Account]{}, err
				}
			}
			return s.Accounts(ctx, c.actor, c.URL.Query().Get("q"), p)
		}),
		"GET /v1/accounts/{account}": plain(func(ctx context.Context, c *call) (AccountDetail, error) {
			since, err := c.moment("since", s.o.Clock().Wall)
			if err != nil {
				return AccountDetail{}, err
			}
			return s.Account(ctx, c.actor, c.PathValue("account"), since)
		}),
		"GET /v1/decisions": listed(s, func(ctx context.Context, c *call, p Page, since time.Time) (List[Decision], error) {
			return s.Decisions(ctx, c.actor, c.URL.Query().Get("account"), c.URL.Query().Get("verdict"), since, p)
		}),
	}
}

// listed reads limit, after and since for an operation that answers with a list.
func listed[T any](s *Service, do func(ctx context.Context, c *call, p Page, since time.Time) (List[T], error)) operation {
	return plain(func(ctx context.Context, c *call) (List[T], error) {
		p, err := c.page()
		if err != nil {
			return List[T]{}, err
		}
		since, err := c.moment("since", s.o.Clock().Wall)
		if err != nil {
			return List[T]{}, err
		}
		l, err := do(ctx, c, p, since)
		if l.Items == nil {
			l.Items = []T{} // [] and never null
		}
		return l, err
	})
}

func heldRoutes(s *Service) map[string]operation {
	settle := func(do func(context.Context, Actor, Settle) (Settled, error)) operation {
		return plain(func(ctx context.Context, c *call) (Settled, error) {
			var q Settle
			if err := c.read(&q); err != nil {
				return Settled{}, err
			}
			return do(ctx, c.actor, q)
		})
	}
	return map[string]operation{
		"GET /v1/held": listed(s, func(ctx context.Context, c *call, p Page, _ time.Time) (List[HeldMessage], error) {
			q := c.URL.Query()
			return s.Held(ctx, c.actor, Selection{Account: q.Get("account"), Mailbox: q.Get("mailbox"), Directory: q.Get("working_directory"),
				Subject: q.Get("subject"), Trigger: q.Get("trigger"), State: q.Get("state")}, p)
		}),
		"GET /v1/held/{ref}": plain(func(ctx context.Context, c *call) (HeldMessage, error) {
			return s.HeldMessage(ctx, c.actor, c.PathValue("ref"))
		}),
		"POST /v1/held/release": settle(s.ReleaseHeld),
		"POST /v1/held/discard": settle(s.DiscardHeld),
		"GET /v1/holds": listed(s, func(ctx context.Context, c *call, p Page, _ time.Time) (List[Hold], error) {
			return s.Holds(ctx, c.actor, c.URL.Query().Get("account"), p)
		}),
		"POST /v1/holds": plain(func(ctx context.Context, c *call) (Hold, error) {
			var h Hold
			if err := c.read(&h); err != nil {
				return Hold{}, err
			}
			return s.PutHold(ctx, c.actor, h)
		}),
		"DELETE /v1/holds/{id}": removed(s.EndHold),
	}
}

func ruleRoutes(s *Service) map[string]operation {
	return map[string]operation{
		"GET /v1/limits": listed(s, func(ctx context.Context, c *call, p Page, _ time.Time) (List[Limit], error) {
			return s.Limits(ctx, c.actor, c.URL.Query().Get("level"), c.URL.Query().Get("name"), p)
		}),
		"PUT /v1/limits": plain(func(ctx context.Context, c *call) (Limit, error) {
			var l Limit
			if err := c.read(&l); err != nil {
				return Limit{}, err
			}
			return s.SetLimit(ctx, c.actor, l)
		}),
		"DELETE /v1/limits/{id}": removed(s.RemoveLimit),
		"GET /v1/triggers": plain(func(ctx context.Context, c *call) (List[Effective], error) {
			return s.Triggers(ctx, c.actor, c.URL.Query().Get("level"), c.URL.Query().Get("name"))
		}),
		"POST /v1/preview": plain(func(ctx context.Context, c *call) (Preview, error) {
			var q PreviewRequest
			if err := c.read(&q); err != nil {
				return Preview{}, err
			}
			since, err := moment("since", q.Since, s.o.Clock().Wall)
			if err != nil {
				return Preview{}, err
			}
			return s.PreviewLimit(ctx, c.actor, q.Limit, q.Remove, since)
		}),
		"GET /v1/exemptions": listed(s, func(ctx context.Context, c *call, p Page, _ time.Time) (List[Exemption], error) {
			return s.Exemptions(ctx, c.actor, p)
		}),
		"POST /v1/exemptions": plain(func(ctx context.Context, c *call) (Exemption, error) {
			var e Exemption
			if err := c.read(&e); err != nil {
				return Exemption{}, err
			}
			return s.AddExemption(ctx, c.actor, e)
		}),
		"DELETE /v1/exemptions/{id}": removed(s.RemoveExemption),
	}
}

// changeRoutes are settings, the way back, and the way in.
func changeRoutes(s *Service) map[string]operation {
	return map[string]operation{
		"GET /v1/settings": plain(func(ctx context.Context, c *call) (List[Setting], error) { return s.Settings(ctx, c.actor) }),
		"PUT /v1/settings": plain(func(ctx context.Context, c *call) (Setting, error) {
			var q SettingRequest
			if err := c.read(&q); err != nil {
				return Setting{}, err
			}
			return s.Set(ctx, c.actor, q.Key, q.Value, q.Reason)
		}),
		"POST /v1/actions/{id}/undo": within(maxUndo, func(ctx context.Context, c *call) (Action, error) {
			id, err := c.number("id")
			if err != nil {
				return Action{}, err
			}
			var q UndoRequest
			if len(c.body) > 0 {
				if err := c.read(&q); err != nil {
					return Action{}, err
				}
			}
			return s.UndoAction(ctx, c.actor, id, q.Reason)
		}),
		"POST /v1/audit/{id}/undo": plain(func(ctx context.Context, c *call) (AuditEntry, error) {
			id, err := c.number("id")
			if err != nil {
				return AuditEntry{}, err
			}
			var q UndoRequest
			if len(c.body) > 0 {
				if err := c.read(&q); err != nil {
					return AuditEntry{}, err
				}
			}
			return s.Undo(ctx, c.actor, id, q.Reason)
		}),
		"POST /v1/login-links": plain(func(ctx context.Context, c *call) (LoginLink, error) {
			var l LoginLink
			if err := c.read(&l); err != nil {
				return LoginLink{}, err
			}
			return s.NewLoginLink(ctx, c.actor, l)
		}),
		"POST /v1/login-links/redeem": plain(func(ctx context.Context, c *call) (LoginLink, error) {
			var q RedeemRequest
			if err := c.read(&q); err != nil {
				return LoginLink{}, err
			}
			return s.RedeemLoginLink(ctx, c.actor, q.Token)
		}),
	}
}

// removed is a DELETE of something by its number; why is in the query.
func removed[T any](do func(ctx context.Context, a Actor, id int64, reason string) (T, error)) operation {
	return plain(func(ctx context.Context, c *call) (T, error) {
		id, err := c.number("id")
		if err != nil {
			var none T
			return none, err
		}
		return do(ctx, c.actor, id, c.URL.Query().Get("reason"))
	})
}

func configRoutes(s *Service) map[string]operation {
	return map[string]operation{
		"GET /v1/config": listed(s, func(ctx context.Context, c *call, p Page, _ time.Time) (List[ConfigSetting], error) {
			l, err := s.Config(ctx, c.actor)
			if err != nil {
				return l, err
			}
			return numbered(l.Items, p)
		}),
		"GET /v1/config/export": func(ctx context.Context, c *call) (any, error) {
			text, err := s.ExportConfig(ctx, c.actor)
			if err != nil {
				return nil, err
			}
			c.w.Header().Set("Content-Type", "application/toml")
			_, _ = c.w.Write([]byte(text)) // the client may have gone
			return nil, nil
		},
		"POST /v1/config/check": plain(func(ctx context.Context, c *call) (List[string], error) {
			var q ConfigText
			if err := c.read(&q); err != nil {
				return List[string]{}, err
			}
			return s.CheckConfig(ctx, c.actor, q.TOML)
		}),
		"POST /v1/config/reload": plain(func(ctx context.Context, c *call) (Reloaded, error) { return s.Reload(ctx, c.actor) }),
	}
}

func metricsOverHTTP(s *Service) operation {
	return func(ctx context.Context, c *call) (any, error) {
		if err := operatorOnly(c.actor, "see the daemon's figures"); err != nil {
			return nil, err
		}
		if s.o.Metrics == nil {
			return nil, unavailable("", "this daemon keeps no figures")
		}
		s.o.Metrics.ServeHTTP(c.w, c.Request)
		return nil, nil
	}
}
