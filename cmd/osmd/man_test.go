package main

import (
	"bytes"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"osm/internal/config"
	"osm/internal/manual"
)

func TestOsmdPageNamesEveryFlag(t *testing.T) {
	page := string(manPage(app()))
	flags := app().Flags
	for _, c := range app().Commands {
		flags = append(flags, c.Flags...)
		if !c.Hidden && !strings.Contains(page, `.SS "osmd `+c.Name) {
			t.Errorf("osmd(8) lacks osmd %s", c.Name)
		}
	}
	for _, f := range flags {
		if v, ok := f.(cli.VisibleFlag); ok && !v.IsVisible() {
			continue
		}
		for _, name := range f.Names() {
			if !strings.Contains(page, `\fB`+manual.Escape("-"+name)+`\fR`) {
				t.Errorf("osmd(8) lacks -%s", name)
			}
		}
	}
}

func TestOsmdPageTellsTheExecutorsSettingsWithTheirDefaults(t *testing.T) {
	var text strings.Builder
	for _, k := range executorKeys() {
		text.WriteString(k[0] + " = " + k[1] + "\n")
	}
	got, err := config.ParseExecutor([]byte(text.String()), "the page")
	if err != nil {
		t.Fatal(err)
	}
	want := config.DefaultExecutor()
	if len(got.DeliverPrefix) == 0 { // no list, or an empty one
		got.DeliverPrefix = want.DeliverPrefix
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the page's values make %+v, the defaults are %+v", got, want)
	}
	if n := reflect.TypeFor[config.ExecutorConfig]().NumField(); n != len(executorKeys()) {
		t.Errorf("the page has %d settings of the executor, there are %d", len(executorKeys()), n)
	}
}

func TestPageInDocsIsThatOfThisProgram(t *testing.T) {
	got, err := os.ReadFile("../../docs/man/osmd.8")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, manPage(app())) {
		t.Error("docs/man/osmd.8 is not what the program prints: run make man")
	}
}
