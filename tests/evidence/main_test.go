package evidence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	eximacl "osm/exim-acl"
	"osm/internal/evidence"
	"osm/internal/origin"
	"osm/policy"
	"osm/tests/lab"
)

// machine is set once by TestMain: there is one machine for a process.
var machine struct {
	*lab.Lab
	clock     func() policy.Moment
	inspector *origin.Inspector
	accounts  *policy.AccountMap
	door      *door
	far       *lab.Far // another host
	tracer    error    // why there are no tracepoints here; nil = there are
}

const (
	account = "shop"
	webUser = 33 // www-data, on every Debian
	// firstUID keeps apart from the tests that run at the same time: the tracepoint tells of
	// the whole machine.
	firstUID = 26001
)

func TestMain(m *testing.M) {
	if question := strings.Fields(os.Getenv(askerEnv)); len(question) == 3 {
		actAsAsker(question[0], question[1], question[2])
		os.Exit(0)
	}
	if err := lab.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, "evidence:", err)
		os.Exit(1)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "evidence:", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "osm-evidence-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return fail(err)
	}
	if machine.Lab, err = lab.New(lab.Options{Dir: dir, FirstUID: firstUID, Accounts: []string{account, "blog"}, TmpfsSpool: true, QueueOnly: true}); err != nil {
		return fail(err)
	}
	defer machine.Close()
	// Where systemd runs tracefs is there already; this mount is the test's own namespace's.
	machine.tracer = syscall.Mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, "")
	if machine.far, err = lab.NewFar(); err != nil {
		return fail(err)
	}
	defer machine.far.Close()
	if err := machine.far.MailServers(25); err != nil {
		return fail(err)
	}
	if err := machine.SetACL(machine.Guard(false)); err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done, err := openDoor(ctx)
	if err != nil {
		cancel()
		return fail(err)
	}
	status := m.Run()
	cancel()
	if err := done(); err != nil {
		return fail(err)
	}
	return status
}

// door answers Exim as the daemon does, with the processes that the inspector tells, and
// hands each message that a test wants to know about to the gatherer after the answer.
type door struct {
	asked chan asked
}

// asked is one message that was answered.
type asked struct {
	s     *policy.Submission
	chain []policy.Process
	id    policy.Identity
	at    policy.Moment
}

func openDoor(ctx context.Context) (wait func() error, err error) {
	machine.clock = origin.Clock()
	machine.door = &door{asked: make(chan asked, 1000)}
	var accounts []policy.Account
	for _, a := range machine.Accounts {
		accounts = append(accounts, policy.Account{Name: a, UID: uint32(machine.UID(a)), Home: machine.HomeOf(a)})
	}
	accounts = append(accounts, policy.Account{Name: "www-data", UID: webUser, System: true})
	machine.accounts = policy.NewAccountMap(policy.AccountMapInput{
		Accounts: accounts, EximUID: uint32(machine.EximUID), SharedUsers: []string{"www-data"},
	})
	inspect, err := net.ListenUnix("unix", &net.UnixAddr{Name: machine.Dir + "/inspect.sock"})
	if err != nil {
		return nil, err
	}
	ask, err := net.ListenUnix("unix", &net.UnixAddr{Name: machine.PolicySocket()})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Chown(machine.PolicySocket(), 0, machine.EximGID), os.Chmod(machine.PolicySocket(), 0o660)); err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	machine.inspector = origin.NewInspector(machine.Dir + "/inspect.sock")
	server := &eximacl.Server{
		Check: machine.door.check, Overload: machine.door.check, Log: log, Now: time.Now,
		PeerOK: func(uid uint32) bool { return uid == uint32(machine.EximUID) },
	}
	ended := make(chan error, 2)
	go func() {
		ended <- origin.ServeInspect(ctx, inspect, origin.InspectOptions{Exim: "/usr/sbin/exim4", Log: log})
	}()
	go func() { ended <- server.Serve(ctx, ask) }()
	return func() error {
		err := machine.inspector.Close()
		for range 2 {
			err = errors.Join(err, <-ended)
		}
		return err
	}, nil
}

// check accepts everything, as the shipped rules do.
func (d *door) check(c eximacl.Conn, s *policy.Submission) *policy.Decision {
	c.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Millisecond)
	defer cancel()
	// Where the inspector has no time there is no chain, and nothing can be known.
	chain, parentIsExim, _ := machine.inspector.Chain(ctx, c.PeerPID)
	o := &policy.Origin{Chain: chain, ParentIsExim: parentIsExim}
	one := asked{s: s, chain: chain, id: policy.Identify(s, o, machine.accounts), at: machine.clock()}
	select {
	case d.asked <- one:
	default:
	}
	return nil
}

// gatherer asks the servers of this test.
func gatherer(t *testing.T, o evidence.Options) *evidence.Gatherer {
	t.Helper()
	o.Now = machine.clock
	g, err := evidence.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return g
}
