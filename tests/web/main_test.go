package web

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"osm/tests/lab"
)

// machine is set once by TestMain: there is one machine, one daemon and one browser for all
// tests. Each errand has an account of its own.
var machine struct {
	*lab.Lab
	*lab.Daemon
	bin     string // folder of osmd and osmctl
	axe     string // axe-core's program
	sources sync.Once
}

const axeEnv = "OSM_TEST_AXE"

func TestMain(m *testing.M) {
	if err := lab.EnterWith(outside); err != nil {
		fmt.Fprintln(os.Stderr, "web:", err)
		os.Exit(1)
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "web:", err)
		code = 1
	}
	os.Exit(code)
}

// outside fetches axe-core with npm, where there is a network.
func outside() (lab.Outside, error) {
	folder, err := fetchAxe()
	if err != nil {
		return lab.Outside{}, fmt.Errorf("axe-core, which looks for what keeps people out, is needed from npm: %w", err)
	}
	return lab.Outside{Env: []string{axeEnv + "=" + folder}}, nil
}

// fetchAxe returns where axe-core is. It is kept for as long as package.json is the same.
func fetchAxe() (string, error) {
	text, err := os.ReadFile("package.json")
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	folder := filepath.Join(cache, "osm-tests", fmt.Sprintf("axe-%x", sha256.Sum256(text))[:20])
	program := filepath.Join(folder, "node_modules", "axe-core", "axe.min.js")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	if err := os.MkdirAll(filepath.Dir(folder), 0o755); err != nil {
		return "", err
	}
	fresh, err := os.MkdirTemp(filepath.Dir(folder), "fetch-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	if err := os.WriteFile(filepath.Join(fresh, "package.json"), text, 0o644); err != nil {
		return "", err
	}
	npm := exec.Command("npm", "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--silent")
	npm.Dir = fresh
	if out, err := npm.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm install: %w: %.1000s", err, out)
	}
	if err := os.Rename(fresh, folder); err != nil && !errors.Is(err, os.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return "", err
	}
	_, err = os.Stat(program)
	return program, err
}

// rules are triggers that the errands' accounts go over; the shipped ones observe.
const rules = `
[held]
release_rate = "600/min"
[[trigger]]
name = "account-hour"
max = 30
count = "messages"
[[trigger]]
name = "directory-hour"
max = 10
mode = "enforce"
actions = ["report", { hold = "1h" }]
[[trigger]]
name = "login-hour"
max = 12
mode = "enforce"
actions = ["report", { hold = "1h" }]
`

// owners are the accounts of the panel, by the reseller who has them.
func owners() map[string][]string {
	return map[string][]string{
		"root":  {"firstday", "stopped", "friday", "undone", "bulk", "whmstop", "whmlimit", "whmbulk", "nojs", "quiet", "hostile", "ringer", "hacked", "stolen", "shop", "journal", "acted"},
		"bob":   {"bobshop", "bobnews"},
		"carol": {"carolblog", "carolmail"},
	}
}

func run(m *testing.M) (int, error) {
	// In memory, and with paths that look like a server's on the pictures.
	const dir = "/srv/web1"
	if err := errors.Join(syscall.Mount("tmpfs", "/srv", "tmpfs", 0, "size=2g,mode=755"), os.Mkdir(dir, 0o755)); err != nil {
		return 1, fmt.Errorf("make %s in memory: %w", dir, err)
	}
	machine.bin, machine.axe = filepath.Join(dir, "bin"), os.Getenv(axeEnv)
	if err := errors.Join(os.Mkdir(machine.bin, 0o755), lab.Build(machine.bin, false)); err != nil {
		return 1, err
	}
	var accounts []string
	for _, reseller := range []string{"root", "bob", "carol"} {
		accounts = append(accounts, owners()[reseller]...)
	}
	if err := lab.OverlayEtc(filepath.Join(dir, "overlay")); err != nil {
		return 1, err
	}
	var err error
	if machine.Lab, err = lab.New(lab.Options{Dir: dir, Accounts: accounts}); err != nil {
		return 1, err
	}
	defer machine.Lab.Close()
	machine.Panel = "cpanel"
	err = errors.Join(panelFiles(), installWHM(dir), machine.SetACL(machine.Guard(false)))
	if err == nil {
		err = machine.StartExim()
	}
	if err != nil {
		return 1, err
	}
	if machine.Daemon, err = machine.StartOsmd(machine.bin, rules); err != nil {
		return 1, err
	}
	end, err := openDoors()
	if err != nil {
		return 1, errors.Join(err, machine.Stop())
	}
	code := m.Run()
	return code, errors.Join(end(), machine.Stop(), faults())
}

// panelFiles are cPanel's maps, in this namespace's /etc.
func panelFiles() error {
	var domains, main, holders, plans strings.Builder
	for reseller, names := range owners() {
		for _, a := range names {
			fmt.Fprintf(&domains, "%s.example: %s\n", a, a)
			fmt.Fprintf(&main, "%s.example: %s\n", a, a)
			fmt.Fprintf(&holders, "%s: %s\n", a, reseller)
			fmt.Fprintf(&plans, "%s: gold\n", a)
		}
	}
	domains.WriteString("*: nobody\n")
	err := os.WriteFile("/etc/userdomains", []byte(domains.String()), 0o644)
	for path, text := range map[string]string{"trueuserdomains": main.String(), "trueuserowners": holders.String(), "userplans": plans.String()} {
		err = errors.Join(err, os.WriteFile("/etc/"+path, []byte(text), 0o644))
	}
	return err
}

// faults looks for what must not be in the daemon's log.
func faults() error {
	text, err := os.ReadFile(machine.Log)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		for _, bad := range []string{"panic", "DATA RACE", "goroutine "} {
			if strings.Contains(line, bad) {
				return fmt.Errorf("the daemon's log has: %s", line)
			}
		}
	}
	return nil
}

// webAddress is where osmctl web listens, in this network namespace.
const webAddress = "127.0.0.1:8025"

// openDoors starts osmctl web and the stand-in of WHM, and returns what ends them.
func openDoors() (func() error, error) {
	log, err := os.Create(machine.Logs + "/web.log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	front := exec.Command(machine.bin+"/osmctl", "-socket", machine.ControlSocket(), "web", "--no-link", "--listen", webAddress)
	front.Stdout, front.Stderr = log, log
	front.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := front.Start(); err != nil {
		return nil, fmt.Errorf("start osmctl web: %w", err)
	}
	whm, err := startWHM()
	if err == nil {
		err = lab.WaitFor(10*time.Second, "osmctl web to answer", func() error {
			c, err := net.Dial("tcp", webAddress)
			if err != nil {
				return err
			}
			return c.Close()
		})
	}
	end := func() error {
		closeBrowser()
		if whm != nil {
			whm()
		}
		_ = front.Process.Signal(syscall.SIGTERM) // it may have ended, which Wait tells
		return front.Wait()
	}
	if err != nil {
		return nil, errors.Join(err, end())
	}
	return end, nil
}

// dependOnProduct makes a cached result of the tests end with the product's files.
func dependOnProduct(t *testing.T) {
	t.Helper()
	machine.sources.Do(func() {
		if err := lab.DependOnProduct(); err != nil {
			t.Fatal(err)
		}
	})
}
