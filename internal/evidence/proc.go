package evidence

import (
	"bytes"
	"context"
	"io"
	"os"
	"strconv"

	"osm/policy"
)

// stillRuns reports whether a process is the one that was seen: the number may have been
// given to another one, whose start differs. It reads what everybody may read of a process;
// where /proc is mounted with hidepid nothing is seen, and nothing proven.
func stillRuns(p *policy.Process) bool {
	f, err := os.Open("/proc/" + strconv.Itoa(int(p.PID)) + "/stat")
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }() // opened for reading
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return false
	}
	state, started, ok := parseStat(b)
	return ok && started == p.Started && state != 'Z' && state != 'X'
}

// workerRuns reports whether the worker is the process that it was. Of one that /proc does
// not show, whoever sees it has the word.
func (q *question) workerRuns(ctx context.Context) bool {
	ask := q.g.opt.StillRuns
	return stillRuns(q.worker) || ask != nil && ask(ctx, q.worker)
}

// parseStat reads state and start time. The program's name may hold anything, so the fields
// are counted from its last bracket.
func parseStat(b []byte) (state byte, started int64, ok bool) {
	end := bytes.LastIndexByte(b, ')')
	if end < 0 {
		return 0, 0, false
	}
	fields := bytes.Fields(b[end+1:])
	if len(fields) < 20 || len(fields[0]) != 1 {
		return 0, 0, false
	}
	started, err := strconv.ParseInt(string(fields[19]), 10, 64)
	return fields[0][0], started, err == nil
}
