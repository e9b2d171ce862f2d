package main

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"osm/internal/evidence"
	"osm/internal/origin"
	"osm/policy"
)

// poolsInFiles is the inspector's part of a question about a pool of php-fpm: it asks those
// of php-fpm's own files, whatever the daemon says.
func poolsInFiles() func(ctx context.Context, name, address uint32) ([]byte, error) {
	asker := evidence.NewPoolAsker(evidence.DefaultPoolFiles(), origin.Clock())
	return func(ctx context.Context, name, address uint32) ([]byte, error) {
		return asker.Ask(ctx, func(p evidence.Pool) bool {
			return origin.PoolNumber(p.Name) == name && origin.PoolNumber(p.Address) == address
		})
	}
}

// poolQuestions is the daemon's part. It may itself connect to TCP ports, which everybody
// may, and to the sockets that the operator opened to it; the others the inspector asks.
// Where that is away, nothing is known of the request, and nobody is alarmed.
type poolQuestions struct {
	named     []evidence.Pool // in osm.toml
	inspector *origin.Inspector
}

func (q *poolQuestions) ask(ctx context.Context, p evidence.Pool) ([]byte, error) {
	if !strings.HasPrefix(p.Address, "/") || slices.Contains(q.named, p) {
		page, err := evidence.AskPool(ctx, p)
		if err == nil || !errors.Is(err, fs.ErrPermission) {
			return page, err
		}
	}
	return q.inspector.Pool(ctx, p.Name, p.Address)
}

// stillRuns is for processes that /proc does not show: the unit has ProtectProc=invisible.
func (q *poolQuestions) stillRuns(ctx context.Context, p *policy.Process) bool {
	chain, _, err := q.inspector.Chain(ctx, p.PID)
	return err == nil && len(chain) > 0 && chain[0].Started == p.Started && chain[0].UID == p.UID
}
