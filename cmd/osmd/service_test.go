package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"osm/internal/config"
	"osm/internal/control"
	"osm/internal/control/controltest"
)

func TestAHangUpIsAReloadLikeAnyOther(t *testing.T) {
	ct := controltest.New(t, "")
	d := &daemon{service: ct.Service, log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	d.hangUp(t.Context())
	audit, err := ct.Service.Audit(t.Context(), control.Actor{Role: control.Operator}, time.Time{}, control.Page{Limit: 10})
	if err != nil || len(audit.Items) != 1 || audit.Items[0].What != "config reload" || audit.Items[0].User != "SIGHUP" {
		t.Errorf("audit = %+v, %v, want the reload", audit, err)
	}
	if ct.Kicked() != 1 {
		t.Error("the register of held mail was not told that limits may have changed")
	}
}

func TestAHangUpWithMistakesInTheFileNamesThem(t *testing.T) {
	ct := controltest.New(t, "")
	var log bytes.Buffer
	d := &daemon{log: slog.New(slog.NewTextHandler(&log, nil))}
	var err error
	d.service, err = control.NewService(control.Options{
		Engine: ct.Engine, Store: ct.Store, Clock: ct.Clock, Log: d.log, Accounts: controltest.Accounts, Config: config.Default,
		Changed: func(context.Context) error { return nil },
		Reload: func(context.Context) (string, error) {
			return "", config.Mistakes{{Key: "log.level", Value: "loud", Text: "must be one of debug, info, warn, error"}}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	d.hangUp(t.Context())
	if !strings.Contains(log.String(), "old settings hold") || !strings.Contains(log.String(), "log.level") {
		t.Errorf("the log does not name the mistake: %s", &log)
	}
	audit, err := ct.Service.Audit(t.Context(), control.Actor{Role: control.Operator}, time.Time{}, control.Page{Limit: 10})
	if err != nil || len(audit.Items) != 0 {
		t.Errorf("audit = %+v, %v, want nothing: nothing was changed", audit, err)
	}
}
