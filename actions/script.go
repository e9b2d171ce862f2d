package actions

import (
	"context"
	"errors"
	"time"
)

// verbRunScript runs one of the operator's own programs.
const verbRunScript = "run-script"

// ScriptOptions is one program of the operator's that the executor may run.
type ScriptOptions struct {
	Command     []string      // absolute path and fixed arguments
	User        string        // as whom
	File        bool          // the report is handed over as a file's path instead of on stdin
	TimeLimit   time.Duration // default 30s
	OutputLimit int           // bytes kept of what it says; default 64 KiB
}

// Script asks the executor to run one program of its options.
type Script struct {
	Name   string `json:"name"`
	Report []byte `json:"report"` // what it gets to read; which format, osmd's configuration says
}

func (x *executor) validateScript(s *Script) error {
	if s == nil {
		return errors.New("names no script")
	}
	if _, ok := x.o.Scripts[s.Name]; !ok {
		return errors.New("names a script that executor.toml does not have")
	}
	return nil
}

func (x *executor) runScript(ctx context.Context, req request) answer {
	return answer{Error: &ExecutorError{What: req.Verb, On: req.Script.Name, Why: "not available yet", Refused: true}}
}
