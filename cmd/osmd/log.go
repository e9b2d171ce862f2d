package main

import (
	"fmt"
	"io"
	"log/slog"

	"osm/internal/config"
)

// newLog makes the daemon's log as the configuration wants it. Its level can be changed
// later.
func newLog(c config.Log, w io.Writer) (*slog.Logger, *slog.LevelVar, error) {
	level := new(slog.LevelVar)
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		return nil, nil, fmt.Errorf("log.level = %.40q: %w", c.Level, err)
	}
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o)), level, nil
	}
	return slog.New(slog.NewTextHandler(w, o)), level, nil
}
