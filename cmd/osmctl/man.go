package main

import (
	"strings"

	"github.com/urfave/cli/v2"

	"osm/internal/config"
	"osm/internal/manual"
)

// The manual pages are made of the same definitions as --help and of the shipped
// osm.toml, so that neither can say what the program does not do.

// manOsmctl is osmctl(8).
func manOsmctl(app *cli.App) []byte {
	p := manual.New("osmctl", "8", app.Usage)
	p.Section("synopsis")
	p.Synopsis("osmctl", "[options] command [arguments]")
	p.Section("description")
	p.Text(app.Description)
	p.Section("options")
	flags(p, app.Flags)
	p.Section("commands")
	commands(p, "osmctl", app.Commands)
	p.Section("exit status")
	p.Item(manual.Word("0"), "done")
	p.Item(manual.Word("1"), "refused or failed; of status: there is an alarm; of doctor: something is wrong; of config check: the file has mistakes")
	p.Item(manual.Word("2"), "the command line was not understood")
	p.Section("environment")
	p.Item(manual.Word("OSM_CONTROL_SOCKET"), "the socket to ask on, where --socket is not given")
	p.Item(manual.Word("SUDO_USER"), "for root: the user who is named in the audit")
	p.Item(manual.Word("TZ"), "the time zone in which times are shown; in JSON they are in UTC")
	p.Section("files")
	p.Item(manual.File("/run/osm/control.sock"), "where the daemon is asked")
	p.Item(manual.File(defaultConfig), "the daemon's settings")
	p.SeeAlso("osmd(8)", "osm.toml(5)", "exim(8)")
	return p.Bytes()
}

func commands(p *manual.Page, path string, list []*cli.Command) {
	for _, c := range list {
		if c.Hidden {
			continue
		}
		full := path + " " + c.Name
		if len(c.Subcommands) > 0 && len(c.Flags) > 0 { // it does something by itself too
			alone := *c
			alone.Subcommands = nil
			commands(p, path, []*cli.Command{&alone})
			commands(p, full, c.Subcommands)
			continue
		}
		if len(c.Subcommands) > 0 {
			if c.Description != "" {
				p.Sub(full)
				p.Text(c.Description)
			}
			commands(p, full, c.Subcommands)
			continue
		}
		p.Sub(strings.TrimSpace(full + " " + c.ArgsUsage))
		p.Text(upper(c.Usage) + ".")
		p.Text(c.Description)
		flags(p, c.Flags)
	}
}

func flags(p *manual.Page, list []cli.Flag) {
	for _, f := range list {
		d, ok := f.(cli.DocGenerationFlag)
		if !ok {
			continue
		}
		usage, value := d.GetUsage(), ""
		if before, rest, found := strings.Cut(usage, "`"); found {
			name, after, _ := strings.Cut(rest, "`")
			usage, value = before+name+after, name
		}
		var names []string
		for _, n := range f.Names() {
			names = append(names, strings.Repeat("-", min(len(n), 2))+n)
		}
		if !d.TakesValue() {
			value = ""
		} else if def := strings.Trim(d.GetDefaultText(), `"`); def != "" {
			usage += " (default: " + def + ")"
		}
		p.Item(manual.Term{Names: names, Value: value}, usage)
	}
}

// upper begins a sentence.
func upper(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// manConfig is osm.toml(5): the shipped file's comments, with its values in bold.
func manConfig() []byte {
	p := manual.New("osm.toml", "5", "settings of osmd, the outgoing mail policy daemon for Exim")
	p.Section("description")
	for i, b := range strings.Split(strings.TrimSpace(config.Shipped()), "\n\n") {
		block(p, b, i == 0)
	}
	p.Section("files")
	p.Item(manual.File(defaultConfig), `read by osmd at its start, and again by "osmctl config reload" and by the signal SIGHUP`)
	p.SeeAlso("osmctl(8)", "osmd(8)")
	return p.Bytes()
}

// block writes one block of the shipped file: prose, and below it the keys that it is
// about.
func block(p *manual.Page, text string, first bool) {
	var prose, values []string
	for line := range strings.SplitSeq(text, "\n") {
		words, isProse := strings.CutPrefix(line, "# ")
		switch {
		case isProse:
			prose = append(prose, words)
		case line == "#":
			prose = append(prose, "")
		default:
			values = append(values, strings.TrimPrefix(line, "#"))
		}
	}
	switch {
	case len(prose) == 0:
	case first: // the title stands in NAME, and the "#" in the file alone
		prose = []string{"The values shown are the defaults."}
		_, rest, _ := strings.Cut(text, "to change it.\n# ")
		for line := range strings.SplitSeq(rest, "\n") {
			prose = append(prose, strings.TrimPrefix(strings.TrimPrefix(line, "#"), " "))
		}
	case strings.HasPrefix(prose[0], "["):
		var title string
		title, prose[0], _ = strings.Cut(prose[0], ": ")
		prose[0] = upper(prose[0])
		p.Key(title)
	}
	p.Text(strings.Join(prose, "\n"))
	if len(values) > 0 && !(len(values) == 1 && strings.HasPrefix(values[0], "[")) {
		p.Code(values...)
	}
}
