package units

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"osm/tests/lab"
)

// monitor is what the status says of the part that sees connections.
type monitor struct {
	OK       bool
	Source   string
	Level    string
	SelfTest string `json:"self_test"`
	Better   []struct{ Name, Error string }
	Problems []string
}

// watching waits until the watch has tried itself, and tells what it is.
func (p *parts) watching(t *testing.T) (m monitor) {
	t.Helper()
	err := lab.WaitFor(20*time.Second, "the watch to have tried itself", func() error {
		var s struct{ Monitor monitor }
		err := p.ctl.Document(&s, "status")
		if m = s.Monitor; err == nil && m.SelfTest == "" {
			err = fmt.Errorf("it is %+v", m)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// connection is what of a row of "osmctl connections" matters here.
type connection struct {
	Account, Remote, Executable string
	SeenBy                      string `json:"seen_by"`
	Directory                   string `json:"working_directory"`
	PID                         int
}

// The capabilities of its unit are enough for the best source, and no others; where the
// kernel does not know those for programs of its own, the packets have to do.
func TestTheWatchSeesConnectionsWithJustTheRightsOfItsUnit(t *testing.T) {
	for _, tt := range []struct {
		name    string
		without []string
		source  string
		refused []string
	}{
		{"as its unit has it", nil, "ebpf", nil},
		{"without CAP_BPF and CAP_PERFMON", []string{"CAP_BPF", "CAP_PERFMON"}, "packet", []string{"ebpf"}},
		{"without CAP_BPF", []string{"CAP_BPF"}, "packet", []string{"ebpf"}},
		{"without CAP_PERFMON", []string{"CAP_PERFMON"}, "packet", []string{"ebpf"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.source == "ebpf" && machine.tracer != nil {
				t.Skipf("NOT TESTED: this kernel gives us no tracepoints, so the ebpf source cannot be used here: %v", machine.tracer)
			}
			p := startWithout(t, tt.without...)
			m := p.watching(t)
			var refused []string
			for _, b := range m.Better {
				refused = append(refused, b.Name)
			}
			if m.Source != tt.source || !strings.HasPrefix(m.SelfTest, "ok: ") || m.Level != "ok" || !m.OK || !slices.Equal(refused, tt.refused) {
				t.Errorf("the watch is %+v, want %s, tried, and %v refused", m, tt.source, tt.refused)
			}
			p.seesAConnection(t, tt.source)
			p.watch.hasJustTheRights()
			p.doctorSees(t, "watch socket", "connections past exim")
		})
	}
}

// seesAConnection makes one, and compares all that is to be known of it.
func (p *parts) seesAConnection(t *testing.T, source string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	dir, knock, remote := machine.HomeOf("shop")+"/public_html", filepath.Join(machine.bin, "knock"), lab.FarIPv4+":587"
	if out, err := machine.As(ctx, "shop", dir, knock, "-to", remote, "-stay", "100ms").CombinedOutput(); err != nil {
		t.Fatalf("knock: %v: %s", err, out)
	}
	err := lab.WaitFor(10*time.Second, "the connection", func() error {
		var list struct{ Items []connection }
		if err := p.ctl.JSON(&list, "connections", "--account", "shop"); err != nil || len(list.Items) != 1 {
			return fmt.Errorf("connections %+v, %w", list.Items, err)
		}
		c := list.Items[0]
		if c.PID == 0 {
			t.Errorf("connection %+v, want its process known", c)
		}
		c.PID = 0
		if want := (connection{"shop", remote, knock, source, dir, 0}); c != want {
			t.Errorf("connection %+v, want %+v", c, want)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
