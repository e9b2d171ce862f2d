package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"osm/internal/config"
)

// roff writes a manual page. The pages are made of the same definitions as --help and
// of the shipped osm.toml, so that neither can say what the program does not do.
type roff struct {
	w   io.Writer
	err error
}

func (r *roff) printf(format string, args ...any) {
	if r.err == nil {
		_, r.err = fmt.Fprintf(r.w, format, args...)
	}
}

// escape makes a text mean nothing to roff.
func escape(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`).Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}

func (r *roff) head(name, section, title string) {
	r.printf(".TH %s %s \"\" \"osm\" \"osm manual\"\n.SH NAME\n%s \\- %s\n", strings.ToUpper(name), section, escape(name), escape(title))
}

func (r *roff) section(title string) { r.printf(".SH %s\n", strings.ToUpper(escape(title))) }

// text writes paragraphs; lines that are indented stay as they are.
func (r *roff) text(s string) {
	indented := false
	for _, line := range strings.Split(s, "\n") {
		is := strings.HasPrefix(line, "    ")
		switch {
		case is && !indented:
			r.printf(".PP\n.nf\n.RS 4\n")
		case !is && indented:
			r.printf(".RE\n.fi\n")
		}
		indented = is
		if strings.TrimSpace(line) == "" {
			r.printf(".PP\n")
			continue
		}
		r.printf("%s\n", escape(strings.TrimSpace(line)))
	}
	if indented {
		r.printf(".RE\n.fi\n")
	}
}

// manOsmctl writes osmctl(8).
func manOsmctl(w io.Writer, app *cli.App) error {
	r := &roff{w: w}
	r.head("osmctl", "8", app.Usage)
	r.section("synopsis")
	r.printf(".B osmctl\n[\\fIoptions\\fR] \\fIcommand\\fR [\\fIarguments\\fR]\n")
	r.section("description")
	r.text(app.Description)
	r.section("options")
	r.flags(app.Flags)
	r.section("commands")
	r.commands("osmctl", app.Commands)
	r.section("files")
	r.printf(".TP\n\\fI/run/osm/control.sock\\fR\nwhere the daemon is asked\n.TP\n\\fI/etc/osm/osm.toml\\fR\nthe daemon\\(aqs settings\n")
	r.section("see also")
	r.printf(".BR osmd (8),\n.BR osm.toml (5)\n")
	return r.err
}

func (r *roff) commands(path string, commands []*cli.Command) {
	for _, c := range commands {
		if c.Hidden {
			continue
		}
		full := path + " " + c.Name
		if len(c.Subcommands) > 0 {
			if c.Description != "" {
				r.printf(".SS %s\n", escape(full))
				r.text(c.Description)
			}
			r.commands(full, c.Subcommands)
			continue
		}
		r.printf(".SS %s\n", escape(strings.TrimSpace(full+" "+c.ArgsUsage)))
		r.printf("%s.\n", escape(upper(c.Usage)))
		if c.Description != "" {
			r.printf(".PP\n")
			r.text(c.Description)
		}
		r.flags(c.Flags)
	}
}

func (r *roff) flags(flags []cli.Flag) {
	for _, f := range flags {
		d, ok := f.(cli.DocGenerationFlag)
		if !ok {
			continue
		}
		usage, value := d.GetUsage(), ""
		if before, rest, found := strings.Cut(usage, "`"); found {
			name, after, _ := strings.Cut(rest, "`")
			usage, value = before+name+after, name
		}
		names := []string{}
		for _, n := range f.Names() {
			dashes := "--"
			if len(n) == 1 {
				dashes = "-"
			}
			names = append(names, `\fB`+escape(dashes+n)+`\fR`)
		}
		r.printf(".TP\n%s", strings.Join(names, ", "))
		if d.TakesValue() && value != "" {
			r.printf(" \\fI%s\\fR", escape(value))
		}
		r.printf("\n%s", escape(usage))
		if def := d.GetDefaultText(); d.TakesValue() && def != "" && def != `""` {
			r.printf(" (default: %s)", escape(strings.Trim(def, `"`)))
		}
		r.printf("\n")
	}
}

// upper begins a sentence.
func upper(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// manConfig writes osm.toml(5): the shipped file's comments, with its values in bold.
func manConfig(w io.Writer) error {
	r := &roff{w: w}
	r.head("osm.toml", "5", "settings of osmd, the outgoing mail policy daemon for Exim")
	r.section("description")
	blocks := strings.Split(strings.TrimSpace(config.Shipped()), "\n\n")
	for i, block := range blocks {
		r.block(block, i == 0)
	}
	r.section("files")
	r.printf(".TP\n\\fI/etc/osm/osm.toml\\fR\nread by osmd at its start and by \"osmctl config reload\"\n")
	r.section("see also")
	r.printf(".BR osmctl (8),\n.BR osmd (8)\n")
	return r.err
}

// block writes one block of the shipped file: prose, and below it the keys that it is
// about.
func (r *roff) block(block string, first bool) {
	var prose, values []string
	for _, line := range strings.Split(block, "\n") {
		text, isProse := strings.CutPrefix(line, "# ")
		switch {
		case isProse:
			prose = append(prose, text)
		case line == "#":
			prose = append(prose, "")
		default:
			values = append(values, strings.TrimPrefix(line, "#"))
		}
	}
	if first && len(prose) > 0 {
		_, prose[0], _ = strings.Cut(prose[0], ": ") // the title stands in NAME
		prose[0] = upper(prose[0])
	}
	title := ""
	if len(prose) > 0 && strings.HasPrefix(prose[0], "[") {
		title, prose[0], _ = strings.Cut(prose[0], ": ")
		prose[0] = upper(prose[0])
		r.printf(".SH %s\n", escape(title))
	}
	r.printf(".PP\n")
	if len(prose) > 0 {
		r.text(strings.Join(prose, "\n"))
	}
	if len(values) > 0 && !(len(values) == 1 && strings.HasPrefix(values[0], "[")) {
		r.printf(".PP\n.nf\n.RS 4\n")
		for _, v := range values {
			r.printf("\\fB%s\\fR\n", escape(v))
		}
		r.printf(".RE\n.fi\n")
	}
}
