package main

import (
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
)

// sample are the values of one figure, one a round.
type sample []float64

func (s sample) quartiles() (q1, median, q3 float64) {
	if len(s) == 0 {
		return 0, 0, 0
	}
	t := append(sample(nil), s...)
	sort.Float64s(t)
	at := func(p float64) float64 {
		x := p * float64(len(t)-1)
		i := int(x)
		if i+1 == len(t) {
			return t[i]
		}
		return t[i] + (x-float64(i))*(t[i+1]-t[i])
	}
	return at(0.25), at(0.5), at(0.75)
}

// ratios pairs two samples of the same rounds.
func ratios(a, b sample) sample {
	var out sample
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			out = append(out, a[i]/b[i])
		}
	}
	return out
}

// figure is one line of the report.
type figure struct {
	what, anchor string
	value        sample
	unit         string
	need         string  // "≥ 0.95"; "" = reported only
	limit        float64 // of need
	atMost       bool
}

func (f figure) String() string {
	q1, m, q3 := f.value.quartiles()
	verdict := ""
	switch {
	case f.need == "":
	case f.atMost && m <= f.limit, !f.atMost && m >= f.limit:
		verdict = "met"
	default:
		verdict = "NOT MET"
	}
	return fmt.Sprintf("| %s | %s | %.3g%s | %.3g – %.3g | %d | %s | %s |", f.what, f.anchor, m, f.unit, q1, q3, len(f.value), f.need, verdict)
}

// cpuSeconds is the user and system time that a process has used, in seconds.
func cpuSeconds(pid int) (float64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(b), ") ")
	if !ok {
		return 0, fmt.Errorf("no process name in stat of %d", pid)
	}
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0, fmt.Errorf("%d fields in stat of %d", len(f), pid)
	}
	u, err := strconv.ParseFloat(f[11], 64)
	if err != nil {
		return 0, err
	}
	s, err := strconv.ParseFloat(f[12], 64)
	return (u + s) / 100, err // USER_HZ is 100 on every architecture of Linux
}
