package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"osm/internal/config"
	"osm/internal/manual"
)

// theApp is the command line as it is when it runs: with --help and --version.
func theApp() *cli.App {
	app := (&env{out: &bytes.Buffer{}, err: &bytes.Buffer{}}).app()
	app.Setup()
	return app
}

func TestOsmctlPageNamesEveryCommandAndFlag(t *testing.T) {
	page := string(manOsmctl(theApp()))
	names := func(what string, flags []cli.Flag) {
		for _, f := range flags {
			if !strings.Contains(page, manual.Escape("--"+f.Names()[0])) {
				t.Errorf("osmctl(8) lacks --%s of %s", f.Names()[0], what)
			}
		}
	}
	var walk func(path string, list []*cli.Command)
	walk = func(path string, list []*cli.Command) {
		for _, c := range list {
			full := path + " " + c.Name
			switch {
			case c.Hidden:
			case len(c.Subcommands) > 0:
				walk(full, c.Subcommands)
			case !strings.Contains(page, `.SS "`+manual.Escape(full)):
				t.Errorf("osmctl(8) lacks %s", full)
			default:
				names(full, c.Flags)
			}
		}
	}
	names("osmctl", theApp().Flags)
	walk("osmctl", theApp().Commands)
}

func TestConfigPageNamesEveryTableAndKey(t *testing.T) {
	page := string(manConfig())
	keys := 0
	for line := range strings.SplitSeq(config.Shipped(), "\n") {
		value, ok := strings.CutPrefix(line, "#")
		switch {
		case !ok || strings.HasPrefix(value, " ") || value == "":
		case strings.HasPrefix(value, "["):
			if !strings.Contains(page, manual.Escape(value)) {
				t.Errorf("osm.toml(5) lacks %s", value)
			}
		default:
			keys++
			if !strings.Contains(page, `\fB`+manual.Escape(value)) {
				t.Errorf("osm.toml(5) lacks %s", value)
			}
		}
	}
	if keys < 60 {
		t.Errorf("only %d keys found in the shipped file", keys)
	}
}

func TestPagesInDocsAreThoseOfThisProgram(t *testing.T) {
	for name, want := range map[string][]byte{"osmctl.8": manOsmctl(theApp()), "osm.toml.5": manConfig()} {
		got, err := os.ReadFile(filepath.Join("../../docs/man", name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("docs/man/%s is not what the program prints: run make man", name)
		}
	}
}
