package actions

import (
	"context"
	"errors"
	"fmt"

	"osm/policy"
	store "osm/sql"
)

// scriptAction hands the report to a program of the operator's.
func scriptAction() action {
	return action{
		slow: true,
		plan: func(c policy.EventChange, a policy.Action, _ *Context) (Step, bool) {
			return Step{Name: a.Name, Target: a.Script, script: a.Script}, true
		},
		run: runScript,
	}
}

func runScript(ctx context.Context, r *Runner, ev *policy.Event, s *Step, row *store.Action) error {
	text, format, err := r.o.Document(ctx, ev)
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	res, err := r.o.Executor.RunScript(ctx, Script{Name: s.script, Format: format, Report: text}) // bounds its time itself
	if err != nil {
		return err
	}
	if row.Outcome = res.String(); res.Exit != 0 {
		return errors.New(row.Outcome)
	}
	return nil
}
