package main

import (
	"fmt"
	"io"
	"log/slog"

	"osm/internal/config"
)

// newLog makes the daemon's log as the configuration wants it.
func newLog(c config.Log, w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		return nil, fmt.Errorf("log.level = %.40q: %w", c.Level, err)
	}
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return slog.New(slog.NewTextHandler(w, o)), nil
}
