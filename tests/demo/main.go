// Command demo runs the whole product on a private machine: Debian's real Exim with our
// ACL, the real osmd, and six accounts that send real mail by PHP mail(), SMTP AUTH, a
// shared web user and a forwarder. All deliveries end in a sink of the demo's own; nothing
// can leave, and the host is left as it was.
//
// It prints a link to the page, who is stopped, when and why, then a table, and goes on
// running for browser and osmctl until Ctrl-C. With DEMO_EXIT=1 it ends by itself, with
// status 0 only if each of the six was treated as it should and the page tells of it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"osm/tests/lab"
)

// demoDir is fixed, so that the commands which are printed can be typed; /run is root's.
const demoDir = "/run/osm-demo"

const demoRules = `
[[trigger]]
name = "account-hour"
mode = "enforce"
[[trigger]]
name = "account-day"
mode = "enforce"
[[trigger]]
name = "directory-hour"
mode = "enforce"
actions = ["report", { hold = "1h" }]
[[trigger]]
name = "login-hour"
mode = "enforce"
actions = ["report", { hold = "1h" }]
[[for]]
account = "journal"
max     = 5000
until   = 2099-12-31
reason  = "monthly newsletter, ticket 4711"
`

func main() {
	// What is started here is killed when the thread that started it ends, see Pdeathsig in
	// prctl(2), and threads do end, see dialOutside. This one stays to the end.
	runtime.LockOSThread()
	if err := lab.EnterWith(outside); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	if !ok {
		os.Exit(1)
	}
}

func run(ctx context.Context) (ok bool, err error) {
	if err := os.Mkdir(demoDir, 0o755); err != nil {
		return false, fmt.Errorf("%w (another demo is running, or one was killed: remove the folder then)", err)
	}
	defer os.RemoveAll(demoDir)
	self, err := os.Executable()
	if err != nil {
		return false, err
	}
	bin := filepath.Dir(self)
	var accounts []string
	for _, r := range cast() {
		accounts = append(accounts, r.account)
	}
	l, err := lab.New(lab.Options{Dir: demoDir, Accounts: accounts})
	if err != nil {
		return false, err
	}
	defer l.Close()
	if err := l.SetACL(l.Guard(false)); err != nil {
		return false, err
	}
	if err := l.StartExim(); err != nil {
		return false, err
	}
	far, err := lab.NewFar()
	if err != nil {
		return false, err
	}
	defer far.Close()
	if err := far.MailServers(25); err != nil {
		return false, err
	}
	l.Direct = `source = "auto"`
	d, err := l.StartOsmd(bin, demoRules)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	p, err := startPage(l, bin)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	fmt.Printf("osmd %s decides for a private Exim. Six accounts begin to send.\n\n", version(d))
	p.tell()
	tail := newTeller(l.ControlSocket())
	if err := play(ctx, l); err != nil {
		return false, err
	}
	ok, err = report(ctx, l)
	if err != nil {
		return false, err
	}
	past, err := tellPast(l)
	if err != nil {
		return false, err
	}
	ok = ok && past
	if err := p.answers(d.Osmctl, "hacked", "stolen"); err != nil {
		return false, err
	}
	if os.Getenv("DEMO_EXIT") != "" {
		fmt.Println("\nThe page answered on the host's", p.listen)
		return ok, nil
	}
	tryIt(l, bin, tail, p)
	<-ctx.Done()
	fmt.Println("\nstopping, and leaving this machine as it was")
	return ok, nil
}

// play lets all accounts send at once, as they would.
func play(ctx context.Context, l *lab.Lab) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	roles := cast()
	errs := make([]error, len(roles))
	var wg sync.WaitGroup
	for i, r := range roles {
		wg.Go(func() {
			if err := r.play(ctx, l); err != nil {
				errs[i] = fmt.Errorf("%s: %w", r.account, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
