package door

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	eximacl "osm/exim-acl"
	"osm/policy"
)

// This program starts itself again as other users; roleEnv says what it is to do then.
const roleEnv = "OSM_DOOR_ROLE"

// child does what the environment says; false if that is nothing.
func child() bool {
	roles := map[string]func(io.Reader) (any, error){"ask": askRole, "flood": floodRole, "probe": probeRole}
	role := roles[os.Getenv(roleEnv)]
	if role == nil {
		return false
	}
	out, err := role(os.Stdin)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "door:", err)
		os.Exit(1)
	}
	return true
}

// childAs runs this program in a role; wrap is put before it, to become another user.
func childAs(t *testing.T, wrap []string, role string, in, out any) {
	t.Helper()
	args := append(wrap, machine.self)
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	runChild(t, cmd, role, in, out)
}

func runChild(t *testing.T, cmd *exec.Cmd, role string, in, out any) {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(cmd.Env, roleEnv+"="+role, raceEnv+"="+raceOptions)
	go func() {
		_ = json.NewEncoder(stdin).Encode(in) // a child that does not read says so itself
		stdin.Close()
	}()
	cmd.Stderr = os.Stderr
	b, err := cmd.Output()
	if err != nil {
		t.Fatalf("role %s: %v", role, err)
	}
	if err := json.Unmarshal(b, out); err != nil {
		t.Fatalf("role %s printed %.200q: %v", role, b, err)
	}
}

// asking is what the role "ask" gets: each request on a connection of its own, all at once.
type asking struct {
	Socket   string
	Requests [][]byte
	Stay     bool // do not half-close after the request
}

// asked is what came of one request.
type asked struct {
	Text  []byte
	Error string
	Took  time.Duration
}

// askAs sends requests to the policy socket as that user.
func askAs(t *testing.T, user string, requests [][]byte) []asked {
	t.Helper()
	return asUser(t, user, asking{Socket: machine.PolicySocket(), Requests: requests})
}

func asUser(t *testing.T, user string, in asking) []asked {
	t.Helper()
	var out []asked
	cmd := exec.CommandContext(t.Context(), machine.self)
	if user != "root" {
		cmd = machine.As(t.Context(), user, "/", machine.self)
	}
	runChild(t, cmd, "ask", in, &out)
	if len(out) != len(in.Requests) {
		t.Fatalf("%d answers to %d requests", len(out), len(in.Requests))
	}
	return out
}

func askRole(in io.Reader) (any, error) {
	var a asking
	if err := json.NewDecoder(in).Decode(&a); err != nil {
		return nil, err
	}
	out := make([]asked, len(a.Requests))
	var wg sync.WaitGroup
	for i, r := range a.Requests {
		wg.Go(func() {
			began := time.Now()
			text, err := exchange(a.Socket, r, a.Stay)
			out[i] = asked{Text: text, Took: time.Since(began)}
			if err != nil {
				out[i].Error = err.Error()
			}
		})
	}
	wg.Wait()
	return out, nil
}

// exchange is what Exim does for a message.
func exchange(socket string, request []byte, stay bool) ([]byte, error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return nil, err
	}
	_, writeErr := c.Write(request)
	if !stay && writeErr == nil {
		writeErr = c.(*net.UnixConn).CloseWrite()
	}
	text, err := io.ReadAll(io.LimitReader(c, 64<<10)) // what was answered before the error counts
	if err == nil && len(text) == 0 {
		err = writeErr
	}
	return text, err
}

// submissionOf is a plain message of an account's script.
func submissionOf(account string) *policy.Submission {
	return &policy.Submission{
		MessageID: "1vN3xQ-000abc-2F", Protocol: "local", CallerUID: int64(machine.UID(account)), Size: 500, Recipients: 1,
		WorkingDirectory: www(account), Ident: account, EnvelopeSender: "box@" + machine.Domain(account), Subject: "Hello",
	}
}

func request(s *policy.Submission) []byte { return eximacl.AppendRequest(nil, s) }
