package packetmon

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"osm/policy"
)

// ebpfCrowd has processes, each of which connects so many times and ends at once. It writes
// their ids. Arguments: address, port, processes, connections of each.
const ebpfCrowd = `use Socket qw(:all); use POSIX ();
my ($h, $p, $n, $each) = @ARGV;
my $to = sockaddr_in($p, inet_aton($h));
for (1 .. $n) {
	my $pid = fork // die "fork: $!";
	if ($pid) { print "$pid\n"; next }
	for (1 .. $each) { socket(my $s, PF_INET, SOCK_STREAM, 6) or die; connect($s, $to); POSIX::_exit(0) if $_ == $each }
}
1 while wait() > 0;`

func (h ebpfHost) crowd(to, port string, processes, each int) []int {
	h.t.Helper()
	_, out := h.connect("/usr/bin/perl", "-e", ebpfCrowd, to, port, strconv.Itoa(processes), strconv.Itoa(each))
	var pids []int
	for _, line := range strings.Fields(out) {
		pid, err := strconv.Atoi(line)
		if err != nil {
			h.t.Fatalf("the crowd says %q", out)
		}
		pids = append(pids, pid)
	}
	if len(pids) != processes {
		h.t.Fatalf("%d processes of %d: %q", len(pids), processes, out)
	}
	return pids
}

func TestEBPFKnowsProcessesThatEndAtOnce(t *testing.T) {
	client, _ := twoEBPFHosts(t)
	w := watchEBPF(t)
	for _, row := range []struct {
		name, to, port string
		outcome        policy.Outcome
	}{
		{"answered", "198.51.100.1", "25", policy.OutcomeEstablished},
		{"answered on loopback", "127.0.0.1", "465", policy.OutcomeEstablished},
	} {
		t.Run(row.name, func(t *testing.T) {
			const n = 200
			pids := client.crowd(row.to, row.port, n, 1)
			got := w.wait(2*n, pids...)
			begun, became := map[int32]int{}, 0
			for _, s := range got {
				if s.UIDKnown && s.UID == ebpfUID && s.PID != 0 {
					begun[s.PID]++
				} else if s.Outcome == row.outcome && !s.UIDKnown {
					became++
				}
			}
			for _, pid := range pids {
				if begun[int32(pid)] != 1 {
					t.Errorf("process %d was told %d times with its user, want once", pid, begun[int32(pid)])
				}
			}
			if became != n {
				t.Errorf("%d outcomes %v, want %d", became, row.outcome, n)
			}
		})
	}
}

func TestEBPFLosesNoneOfAThousandAndTellsThemApartAndInOrder(t *testing.T) {
	client, _ := twoEBPFHosts(t)
	w := watchEBPF(t)
	const processes, each = 10, 100
	start := time.Now()
	pids := client.crowd("198.51.100.1", "25", processes, each)
	took := time.Since(start)
	got := w.wait(2*processes*each, pids...)
	if len(got) != 2*processes*each || w.Lost() != 0 {
		t.Errorf("told %d times, lost %d; want %d and none", len(got), w.Lost(), 2*processes*each)
	}
	t.Logf("%d connections in %v", processes*each, took)
	told := map[uint64]policy.Outcome{}
	for i, s := range got {
		before, known := told[s.Socket]
		if begins := s.Outcome == policy.OutcomeUnknown; begins == known || (known && before != policy.OutcomeUnknown) {
			t.Fatalf("number %d, told before: %v: %+v", i, known, s)
		}
		if i > 0 && s.At < got[i-1].At {
			t.Errorf("number %d is %d ns older than the one before", i, got[i-1].At-s.At)
		}
		told[s.Socket] = s.Outcome
	}
	if len(told) != processes*each {
		t.Errorf("%d different connections, want %d", len(told), processes*each)
	}
}

func TestEBPFCountsWhatItsRingsCannotHold(t *testing.T) {
	client, server := twoEBPFHosts(t)
	server.listen(":60925")
	e := openEBPF(t, EBPFOptions{Ports: []uint16{60925}, ring: 4096}) // a port that no other test connects to
	const n = 300
	client.crowd("198.51.100.1", "60925", 1, n)
	lost := e.Lost()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := 0
	if err := e.Run(ctx, func(s *Seen) {
		if s.UID == ebpfUID && s.UIDKnown {
			told++
		}
		if told+int(lost) >= n {
			cancel()
		}
	}); err != nil {
		t.Fatal(err)
	}
	if lost == 0 || told == 0 || lost != uint64(n-told) {
		t.Errorf("told %d and lost %d of %d", told, lost, n)
	}
	if got := e.Lost(); got < lost {
		t.Errorf("Lost fell from %d to %d when it was closed", lost, got)
	}
}

func TestEBPFLeavesTheTracepointToOthersToo(t *testing.T) {
	e := openEBPF(t, EBPFOptions{})
	f, err := readFormat(fmt.Sprintf("/proc/self/fd/%d", ebpfTracefs(t).Fd()), "sock", "inet_sock_set_state")
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // it is this thread that is counted
	defer runtime.UnlockOSThread()
	counter, err := unix.PerfEventOpen(&unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: f.id, Size: unix.PERF_ATTR_SIZE_VER0}, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(counter)
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	_ = unix.Connect(s, &unix.SockaddrInet4{Port: 1, Addr: [4]byte{127, 0, 0, 1}}) // refused, most likely
	var count [8]byte
	if _, err := unix.Read(counter, count[:]); err != nil {
		t.Fatal(err)
	}
	if binary.NativeEndian.Uint64(count[:]) == 0 {
		t.Error("perf counts nothing while the source is open")
	}
	runtime.KeepAlive(e)
}

func TestEBPFIsNotCollected(t *testing.T) {
	client, _ := twoEBPFHosts(t)
	w := watchEBPF(t)
	for range 5 {
		for range 3 {
			runtime.GC()
		}
		pid, _ := client.connect(ebpfPerlTo("198.51.100.1", "25")...)
		w.wait(2, pid)
	}
}

func TestEBPFEndsAtOnce(t *testing.T) {
	for _, row := range []struct {
		name string
		end  func(e *EBPF, cancel func())
	}{
		{"when its context ends", func(_ *EBPF, cancel func()) { cancel() }},
		{"when it is closed", func(e *EBPF, _ func()) { e.Close() }},
		{"when both", func(e *EBPF, cancel func()) { cancel(); e.Close() }},
	} {
		t.Run(row.name, func(t *testing.T) {
			client, _ := twoEBPFHosts(t)
			e := openEBPF(t, EBPFOptions{})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			first, ended := make(chan struct{}, 1), make(chan error, 1)
			over := false // seen by the race detector if it is still called
			go func() {
				err := e.Run(ctx, func(*Seen) {
					if over {
						t.Error("told after its end")
					}
					select {
					case first <- struct{}{}:
					default:
					}
				})
				over = true
				ended <- err
			}()
			client.connect(ebpfPerlTo("198.51.100.1", "25")...)
			<-first // it is running
			row.end(e, cancel)
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("Run = %v, want nil", err)
				}
			case <-time.After(5 * time.Second):
				t.Fatal("Run does not end")
			}
			if err := e.AddPort(25); !errors.Is(err, os.ErrClosed) {
				t.Errorf("AddPort after the end = %v", err)
			}
			if err := e.RemovePort(25); !errors.Is(err, os.ErrClosed) {
				t.Errorf("RemovePort after the end = %v", err)
			}
			if err := e.Run(t.Context(), nil); err != nil {
				t.Errorf("Run after the end = %v, want nil at once", err)
			}
			if err := e.Close(); err != nil {
				t.Errorf("Close again = %v", err)
			}
		})
	}
}

func saysEBPF(err error, part string) bool { return err != nil && strings.Contains(err.Error(), part) }
