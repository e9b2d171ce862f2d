package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"osm/internal/webfront"
	"osm/tests/lab"
)

// outside makes the socket of the page before the demo moves into a network of its own:
// a socket stays in the network where it was made, so the host's browser reaches it.
func outside() (lab.Outside, error) {
	l, err := net.Listen("tcp", webfront.DefaultListen)
	if err != nil { // another demo, or another program: any port will do
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return lab.Outside{}, fmt.Errorf("listen for the page: %w", err)
		}
	}
	f, err := l.(*net.TCPListener).File()
	return lab.Outside{Files: []*os.File{f}}, err
}

// page is the running "osmctl web".
type page struct {
	cmd    *exec.Cmd
	listen string // on the host
	link   string
}

// startPage hands the socket to osmctl web and waits for the link that it prints.
func startPage(l *lab.Lab, bin string) (*page, error) {
	unix.CloseOnExec(lab.FirstFile) // it is osmctl's and nobody else's
	socket := os.NewFile(lab.FirstFile, "page")
	defer socket.Close()
	log, err := os.Create(l.Logs + "/page.log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &page{cmd: exec.Command(bin+"/osmctl", "-socket", l.ControlSocket(), "web", "--json")}
	p.cmd.Env = append(os.Environ(), "OSM_LISTEN_FDS=page=3")
	p.cmd.ExtraFiles, p.cmd.Stderr = []*os.File{socket}, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start osmctl web: %w", err)
	}
	var said struct {
		Listen string
		Link   struct{ URL string }
	}
	if err := json.NewDecoder(out).Decode(&said); err != nil || said.Link.URL == "" {
		return nil, errors.Join(fmt.Errorf("osmctl web gave no link (its log is %s)", log.Name()), err, p.stop())
	}
	p.listen, p.link = said.Listen, said.Link.URL
	return p, nil
}

func (p *page) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	return p.cmd.Wait()
}

// tell prints the way in.
func (p *page) tell() {
	fmt.Printf("Watch it in a browser on this machine (the link works once, for ten minutes):\n\n  %s\n\n", p.link)
	if _, port, err := net.SplitHostPort(p.listen); err == nil && os.Getenv("SSH_CONNECTION") != "" {
		fmt.Printf("From the machine you sit at, first: ssh -L %s:%s THIS-HOST\n\n", port, p.listen)
	}
}

// answers logs in as a browser on the host would, with a link of its own, and looks for
// the words on the first page.
func (p *page) answers(ctl func(args ...string) ([]byte, error), words ...string) error {
	out, err := ctl("web", "link", "--listen", p.listen, "--json")
	if err != nil {
		return err
	}
	var link struct{ URL string }
	if err := json.Unmarshal(out, &link); err != nil {
		return fmt.Errorf("osmctl web link printed %.200q: %w", out, err)
	}
	u, err := url.Parse(link.URL)
	if err != nil {
		return err
	}
	origin := "http://" + p.listen
	_, _, err = p.ask(http.MethodGet, link.URL, "", nil)
	if err != nil {
		return err
	}
	resp, _, err := p.ask(http.MethodPost, origin+u.Path, u.RawQuery, http.Header{
		"Origin": {origin}, "Content-Type": {"application/x-www-form-urlencoded"}})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusSeeOther || len(resp.Cookies()) != 1 {
		return fmt.Errorf("the page's login answered %s", resp.Status)
	}
	resp, text, err := p.ask(http.MethodGet, origin+"/", "", http.Header{"Cookie": {resp.Cookies()[0].String()}})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the page answered %s: %.300s", resp.Status, text)
	}
	for _, w := range words {
		if !strings.Contains(text, w) {
			return fmt.Errorf("the page does not speak of %q", w)
		}
	}
	return nil
}

// ask sends one request from the host's network.
func (p *page) ask(method, address, form string, header http.Header) (*http.Response, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(form))
	if err != nil {
		return nil, "", err
	}
	for name, values := range header {
		r.Header[name] = values
	}
	c, err := dialOutside(p.listen)
	if err != nil {
		return nil, "", err
	}
	defer c.Close()
	if err := errors.Join(c.SetDeadline(time.Now().Add(30*time.Second)), r.Write(c)); err != nil {
		return nil, "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), r)
	if err != nil {
		return nil, "", fmt.Errorf("read the page: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp, string(text), err
}

// dialOutside connects to an address of the host's network, in which our parent is.
func dialOutside(address string) (net.Conn, error) {
	type dialled struct {
		c   net.Conn
		err error
	}
	done := make(chan dialled)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this, in the other network
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", os.Getppid()))
		if err == nil {
			err = errors.Join(unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET), ns.Close())
		}
		if err != nil {
			done <- dialled{nil, fmt.Errorf("enter the host's network: %w", err)}
			return
		}
		c, err := net.Dial("tcp", address)
		done <- dialled{c, err}
	}()
	d := <-done
	return d.c, d.err
}
