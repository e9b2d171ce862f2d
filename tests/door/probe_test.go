package door

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"osm/actions"
	"osm/tests/lab"
)

// probing is what the role "probe" gets: what is root's or Exim's, to be got at.
type probing struct {
	Victims  map[string]int // processes, by what they are
	Read     []string       // files
	Write    []string       // files that must not be opened for writing
	List     []string       // folders
	Executor string         // its socket
	Foreign  string         // a message in Exim's queue that is not ours
}

// probeRole tries all of it and says for each try what hindered it; "" is a success.
func probeRole(in io.Reader) (any, error) {
	var p probing
	if err := json.NewDecoder(in).Decode(&p); err != nil {
		return nil, err
	}
	out := map[string]string{}
	try := func(name string, err error) {
		out[name] = ""
		if err != nil {
			out[name] = err.Error()
		}
	}
	for what, pid := range p.Victims {
		try("ptrace "+what, attach(pid))
		try("read memory of "+what, readMemory(pid))
		try("take descriptor of "+what, takeDescriptor(pid))
		try("signal "+what, syscall.Kill(pid, 0))
		for _, file := range []string{"environ", "mem", "maps", "fd/0", "root/etc/shadow", "cwd/x"} {
			try(fmt.Sprintf("/proc file %s of %s", file, what), readable(fmt.Sprintf("/proc/%d/%s", pid, file)))
		}
	}
	for _, path := range p.Read {
		try("read "+path, readable(path))
	}
	for _, path := range p.Write {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err == nil {
			err = f.Close()
		}
		try("write "+path, err)
	}
	for _, path := range p.List {
		_, err := os.ReadDir(path)
		try("list "+path, err)
	}
	try("become root", syscall.Setuid(0))
	try("become root by setgroups", syscall.Setgroups([]int{0}))
	try("become root by a set-uid program", becomeRoot())
	return out, executorTries(out, p)
}

func attach(pid int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(pid); err != nil {
		return err
	}
	return nil // it ends with this process
}

// readMemory reads where every program is loaded or has its stack: any success will do.
func readMemory(pid int) error {
	buf := make([]byte, 8)
	local := []unix.Iovec{{Base: &buf[0]}}
	local[0].SetLen(len(buf))
	_, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: 0x400000, Len: len(buf)}}, 0)
	if errors.Is(err, unix.EFAULT) { // allowed to, but nothing is mapped there
		return nil
	}
	return err
}

func takeDescriptor(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	taken, err := unix.PidfdGetfd(fd, 0, 0)
	if err != nil {
		return err
	}
	return unix.Close(taken)
}

// readable reads a byte; that nothing is there to be read, or no such file below a folder
// that could be entered, is a success too.
func readable(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Read(make([]byte, 1))
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, syscall.EIO) {
		return nil
	}
	return err
}

func becomeRoot() error {
	out, err := exec.Command("/bin/su", "-s", "/bin/sh", "-c", "id -u", "root").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// executorTries asks the executor for what it must not do.
func executorTries(out map[string]string, p probing) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	x := actions.NewExecutor(p.Executor)
	do := map[string]func(context.Context, ...string) ([]actions.Result, error){"thaw": x.Thaw, "deliver": x.Deliver, "remove": x.Remove}
	for name, f := range do {
		results, err := f(ctx, p.Foreign)
		if err == nil {
			for _, r := range results {
				if r.Outcome != actions.OutcomeDone {
					err = errors.New(string(r.Outcome))
				}
			}
		}
		if err == nil {
			return fmt.Errorf("the executor did %s a message that is not ours", name)
		}
		out["executor: "+name+" of a message that is not ours"] = err.Error()
	}
	_, err := x.QueueHeaders(ctx, p.Foreign)
	if err == nil {
		return errors.New("the executor gave the headers of a message that is not ours")
	}
	out["executor: headers of a message that is not ours"] = err.Error()
	for _, request := range []string{
		`{"verb":"queue-headers","ids":["../../../../../etc/shadow"]}`, `{"verb":"queue-remove","ids":["-be"]}`,
		`{"verb":"queue-remove","ids":["1vN3xQ-000abc-2F;id"]}`, `{"verb":"run","ids":["id"]}`, `{"verb":"queue-list","spool":"/etc"}`,
		`{"verb":"exim-options","ids":["-C/tmp/x"]}`, `{"verb":"queue-deliver","ids":[]}`, `{`, strings.Repeat("A", 100_000),
	} {
		refusal, err := refused(p.Executor, request)
		if err != nil {
			return fmt.Errorf("the executor took %.60q: %w", request, err)
		}
		out[fmt.Sprintf("executor: %.60q", request)] = refusal
	}
	return nil
}

// refused sends a line and returns why the executor refused it.
func refused(socket, request string) (string, error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	if _, err := c.Write([]byte(request + "\n")); err != nil {
		return "closed: " + err.Error(), nil
	}
	line, err := bufio.NewReader(c).ReadBytes('\n')
	if err != nil {
		return "closed: " + err.Error(), nil
	}
	var a struct{ Error *struct{ Why string } }
	if err := json.Unmarshal(line, &a); err != nil || a.Error == nil {
		return "", fmt.Errorf("it answered %.200q (%v)", line, err)
	}
	return a.Error.Why, nil
}

func TestTheDaemonHasNoPrivilegeAtAll(t *testing.T) {
	w := start(t)
	want := map[string]string{
		"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000", "CapBnd": "0000000000000000",
		"CapAmb": "0000000000000000", "NoNewPrivs": "1",
	}
	for field, value := range want {
		if got := w.field(t, field); got != value {
			t.Errorf("%s is %s, want %s", field, got, value)
		}
	}
	uids, gids := strings.Fields(w.field(t, "Uid")), strings.Fields(w.field(t, "Gid"))
	groups := strings.Fields(w.field(t, "Groups"))
	for _, ids := range [][]string{uids, gids} {
		if len(ids) != 4 || slices.Contains(ids, "0") || len(slices.Compact(ids)) != 1 {
			t.Errorf("it runs as uids %v and gids %v, want four times one that is not 0", uids, gids)
		}
	}
	for _, id := range append(groups, gids...) {
		if id == "0" || id == fmt.Sprint(machine.EximGID) {
			t.Errorf("it is in group %s (of %v and %v), which is root's or Exim's", id, groups, gids)
		}
	}
}

func (w *world) field(t *testing.T, name string) string {
	t.Helper()
	value, err := lab.ProcStatus(w.PID(), name)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// asOsmd is the command that makes a program run with exactly the daemon's credentials.
func (w *world) asOsmd(t *testing.T) []string {
	t.Helper()
	args := []string{"/usr/bin/setpriv", "--reuid=" + strings.Fields(w.field(t, "Uid"))[0], "--regid=" + strings.Fields(w.field(t, "Gid"))[0],
		"--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--no-new-privs"}
	if groups := strings.Fields(w.field(t, "Groups")); len(groups) > 0 {
		return append(args, "--groups="+strings.Join(groups, ","))
	}
	return append(args, "--clear-groups")
}

// A program that has taken the daemon over can try what it likes.
func TestFromTheDaemonNothingOfRootsCanBeReadOrTraced(t *testing.T) {
	w := start(t)
	account := w.next()
	w.do(t, "hold", "put", "--account", account)
	if err := bySendmail(t.Context(), account, 1, mailOf(account, "Ours")); err != nil {
		t.Fatal(err)
	}
	ours := frozen(t, "Ours")
	foreign := w.foreignMessage(t, w.next())
	if len(ours) != 1 {
		t.Fatalf("%v are frozen", ours)
	}
	p := w.probing(t, foreign)

	var got map[string]string
	childAs(t, w.asOsmd(t), "probe", p, &got)
	for what, hindered := range got {
		if hindered == "" {
			t.Errorf("it could: %s", what)
		}
	}
	if q := queued(t, foreign); !q.Frozen {
		t.Errorf("the message that is not ours is now %+v", q)
	}
	// The same program as root, so that it is known to be able to notice.
	victim := machine.As(t.Context(), account, "/", "/bin/sleep", "60")
	victim.SysProcAttr = nil // root's
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = victim.Process.Kill()
		_ = victim.Wait()
	})
	var asRoot map[string]string
	childAs(t, nil, "probe", probing{Victims: map[string]int{"root's process": victim.Process.Pid}, Read: p.Read, Write: p.Write, List: p.List,
		Executor: p.Executor, Foreign: foreign}, &asRoot)
	for _, what := range slices.Sorted(maps.Keys(asRoot)) {
		if hindered := asRoot[what]; hindered != "" && !strings.HasPrefix(what, "executor: ") && !strings.HasPrefix(what, "become ") {
			t.Errorf("the probe proves nothing: not even root could: %s: %s", what, hindered)
		}
	}
}

// foreignMessage is one that somebody else froze, by hand, before osm asked for anything.
func (w *world) foreignMessage(t *testing.T, account string) string {
	t.Helper()
	cmd := machine.As(t.Context(), account, www(account), "/usr/sbin/sendmail", "-odq", "-t", "-i")
	cmd.Stdin = strings.NewReader("To: x@elsewhere.example\nSubject: Not ours\n\nHello.\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sendmail: %v: %s", err, out)
	}
	queue, err := machine.ReadQueue()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(queue, func(q lab.Queued) bool { return q.Subject == "Not ours" })
	if i < 0 {
		t.Fatalf("the queue holds %+v", queue)
	}
	id := queue[i].ID
	if out, err := exec.Command("/usr/sbin/exim4", "-Mf", id).CombinedOutput(); err != nil {
		t.Fatalf("exim -Mf: %v: %s", err, out)
	}
	return id
}

func queued(t *testing.T, id string) lab.Queued {
	t.Helper()
	queue, err := machine.ReadQueue()
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range queue {
		if q.ID == id {
			return q
		}
	}
	return lab.Queued{}
}

// probing is everything of root's and Exim's that there is in the lab.
func (w *world) probing(t *testing.T, foreign string) probing {
	t.Helper()
	p := probing{
		Victims: map[string]int{"init": 1, "the test": os.Getpid()},
		Read:    []string{"/etc/shadow", "/etc/gshadow", "/root/x", queued(t, foreign).Path},
		Write:   []string{"/etc/passwd", w.Config, machine.Dir + "/etc/executor.toml", machine.Logs + "/mainlog"},
		List:    []string{machine.Spool + "/input", "/root"},
		Foreign: foreign, Executor: machine.Run + "/executor.sock",
	}
	queue, err := machine.ReadQueue()
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range queue {
		p.Read = append(p.Read, q.Path, strings.TrimSuffix(q.Path, "-H")+"-D")
	}
	for _, part := range []string{"inspect", "executor"} {
		pid, err := lab.Descendant(w.PID(), "osmd", part)
		if err != nil {
			t.Fatal(err)
		}
		p.Victims["osmd "+part] = pid
	}
	return p
}
