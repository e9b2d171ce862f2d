package actions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"osm/policy"
)

// verbRunScript runs one of the operator's own programs.
const verbRunScript = "run-script"

// ScriptOptions is one program of the operator's that the executor may run.
type ScriptOptions struct {
	Command     []string      // absolute path and fixed arguments
	User        string        // as whom; default nobody
	File        bool          // the report is handed over as a file's path instead of on stdin
	TimeLimit   time.Duration // default 30s, at most 10m
	OutputLimit int           // bytes kept of what it says; default 64 KiB, at most 1 MiB
}

// Script asks the executor to run one program of its options.
type Script struct {
	Name   string `json:"name"`
	Format string `json:"format,omitempty"` // of the report: "json", "yaml", "xml", "perl", or "" for none of these
	Report []byte `json:"-"`                // what it gets to read, at most 1 MiB; follows the request's line
}

// ScriptResult is how a program ended.
type ScriptResult struct {
	Exit   int    // its exit status; 128+n where signal n ended it
	Output string // what it said, both ways together, in valid UTF-8 and cut at its limit
}

// String is the result in a line, cut.
func (r ScriptResult) String() string {
	s := fmt.Sprintf("exit status %d", r.Exit)
	if said := strings.Join(strings.Fields(r.Output), " "); said != "" {
		s += "; it said: " + cut(said, 1000)
	}
	return s
}

const (
	maxReport     = 1 << 20
	maxScriptTime = 10 * time.Minute
	maxScriptSaid = 1 << 20
	// scriptsAtOnce: one that hangs must not keep the next away, nor may they fill all of
	// the executor's connections.
	scriptsAtOnce = 4
)

// formats are those of a report, with the ending of a file that holds one.
func formats() map[string]string {
	return map[string]string{"": "", "json": ".json", "yaml": ".yaml", "xml": ".xml", "perl": ".perl"}
}

func (x *executor) validateScript(req *request) error {
	s := req.Script
	if s == nil {
		return errors.New("names no script")
	}
	if _, ok := x.o.Scripts[s.Name]; !ok || !policy.ValidScriptName(s.Name) {
		return fmt.Errorf("executor.toml has no script %.40q", s.Name)
	}
	if _, ok := formats()[s.Format]; !ok {
		return fmt.Errorf("%.40q is no format of a report", s.Format)
	}
	return nil
}

// runScript runs a program beside all other requests, at most so many at once. Its output
// is the answer's lines but the last.
func (x *executor) runScript(ctx context.Context, req request, w *answerWriter) answer {
	s, now := req.Script, x.o.Now()
	e := &ExecutorError{What: req.Verb, On: s.Name}
	if !slices.Contains(x.o.Actions, policy.ActionRunScript) {
		e.Why, e.Next, e.Refused = "the executor may not do run-script", "see actions in executor.toml", true
		return answer{Error: e}
	}
	select {
	case x.scripting <- struct{}{}:
		defer func() { <-x.scripting }()
	default:
		e.Why, e.Next, e.RetryAfter = fmt.Sprintf("%d scripts run already", scriptsAtOnce), "try again", 5*time.Second
		return answer{Error: e}
	}
	run, err := x.scriptRun(s)
	if err != nil {
		return answer{Error: explainScript(e, err)}
	}
	if wait := x.rates.take(policy.ActionRunScript, now); wait > 0 {
		e.Why = fmt.Sprintf("more than %d an hour", x.o.Rates[policy.ActionRunScript])
		e.Next, e.RetryAfter, e.Braked = "the rate is set in executor.toml", wait, true
		return answer{Error: e}
	}
	res, err := run.do(ctx, s.Report)
	x.o.Log.Info("script run", "script", s.Name, "exit", res.Exit, "said", cut(res.Output, 500), "err", err)
	for _, part := range parts(res.Output, maxAnswerLine/8) {
		if w.line(answer{Text: part}) != nil {
			break // the client is gone, and sees it
		}
	}
	return answer{Exit: res.Exit, Error: explainScript(e, err)}
}

func explainScript(e *ExecutorError, err error) *ExecutorError {
	if err == nil {
		return nil
	}
	e.Why, e.Next = err.Error(), "see the script's entry in executor.toml"
	var r refusal
	if errors.As(err, &r) {
		e.Refused, e.Next = true, cmp.Or(r.next, e.Next)
	}
	return e
}

// parts cuts a text for the answer's lines: in JSON a byte can take six.
func parts(s string, size int) []string {
	var out []string
	for len(s) > size {
		n := size
		for !utf8.RuneStart(s[n]) {
			n--
		}
		out, s = append(out, s[:n]), s[n:]
	}
	if s != "" {
		out = append(out, s)
	}
	return out
}

// RunScript runs a program of executor.toml and waits for its end. That it failed is told
// by the result's Exit; an error means that it was not run, or not to its end: then the
// result holds what it had said by then. [Busy] tells whether it can be asked again.
func (x *Executor) RunScript(ctx context.Context, s Script) (ScriptResult, error) {
	if len(s.Report) > maxReport {
		return ScriptResult{}, &ExecutorError{What: verbRunScript, On: s.Name, Why: fmt.Sprintf("the report has %d bytes, at most %d", len(s.Report), maxReport), Refused: true}
	}
	var said strings.Builder
	last, err := x.call(ctx, request{Verb: verbRunScript, Script: &s, Body: len(s.Report)}, func(a *answer) error {
		if said.Len()+len(a.Text) > 4*maxScriptSaid { // a wrong byte becomes three
			return errors.New("the executor said more than any script may")
		}
		said.WriteString(a.Text)
		return nil
	})
	return ScriptResult{Exit: last.Exit, Output: said.String()}, err
}
