package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"osm/internal/config"
	"osm/internal/control"
)

// defaultConfig is where the operator's settings are.
const defaultConfig = "/etc/osm/osm.toml"

func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", Aliases: []string{"c"}, Value: defaultConfig, Usage: "the settings in `FILE`"}
}

func (e *env) configCommands() []*cli.Command {
	return []*cli.Command{
		group("config", "check, show, export or reload the settings", "",
			command("check", "[FILE]", "name every mistake in a settings file", `Works without the daemon; a running one also tells what in its database would not fit the file.
Exit status 0: the file can be used.`,
				0, 1, []cli.Flag{configFlag()}, e.configCheck),
			command("show", "", "list every value in force and where it stands",
				`Each value comes from the shipped defaults, from the file (with its line) or from the database
(with who set it, when and why); the database wins over the file.`, 0, 0, pageFlags(1000), e.configShow),
			command("export", "", "print everything in force as one osm.toml", "What was set with osmctl is included.", 0, 0, nil, e.configExport),
			command("reload", "", "make the daemon read its file again",
				`With a mistake in the file nothing changes: every mistake is named, and the settings in force
stay. Counters are kept.`, 0, 0, nil, e.configReload),
			command("default", "", "print the shipped osm.toml, which explains every setting", "", 0, 0, nil, func(c *cli.Context) error {
				return e.printTOML(c, config.Shipped())
			}),
		),
	}
}

// checked is what config check prints with --json.
type checked struct {
	File     string           `json:"file"`
	OK       bool             `json:"ok"`
	Mistakes []config.Mistake `json:"mistakes"`
}

func (e *env) configCheck(c *cli.Context) error {
	path := c.String("config")
	if c.NArg() == 1 {
		path = c.Args().First()
	}
	cfg, err := config.Load(path)
	result := checked{File: path, OK: err == nil, Mistakes: []config.Mistake{}}
	var mistakes config.Mistakes
	if err != nil && !errors.As(err, &mistakes) {
		return err
	}
	if err == nil {
		mistakes = e.checkedByDaemon(c, path)
		result.OK = len(mistakes) == 0
	}
	result.Mistakes = append(result.Mistakes, mistakes...)
	if printErr := e.print(c, result, func() {
		for _, m := range mistakes {
			e.line("%s", m.Error())
		}
		if result.OK {
			e.line("%s can be used: %d triggers, %d limits, %d exemptions", path, len(cfg.Triggers), len(cfg.Overrides), len(cfg.Exemptions))
		}
	}); printErr != nil {
		return printErr
	}
	if !result.OK {
		return &control.Error{Status: 422, Message: fmt.Sprintf("%s: %s", path, plural(int64(len(mistakes)), "mistake")), Hint: "osmctl config default prints what is allowed"}
	}
	return nil
}

// checkedByDaemon asks a running daemon for what only shows together with its database. A
// file can be checked without one.
func (e *env) checkedByDaemon(c *cli.Context, path string) (mistakes config.Mistakes) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	client := e.client(c)
	defer client.Close()
	client.Timeout = 5 * time.Second
	l, err := client.CheckConfig(c.Context, string(text))
	if err != nil {
		return nil
	}
	for _, text := range l.Items {
		mistakes = append(mistakes, config.Mistake{File: path, Text: text})
	}
	return mistakes
}

func (e *env) configShow(c *cli.Context) error {
	q, err := query(c, nil)
	if err != nil {
		return err
	}
	client := e.client(c)
	defer client.Close()
	l, err := client.Config(c.Context, q)
	if err != nil {
		return err
	}
	return e.print(c, l, func() {
		rows := [][]string{}
		for _, s := range l.Items {
			rows = append(rows, []string{s.Key, s.Value, s.Origin})
		}
		e.table(columns("key~52", "value~44", "from"), rows)
		e.more(l.Next)
	})
}

func (e *env) configExport(c *cli.Context) error {
	client := e.client(c)
	defer client.Close()
	text, err := client.ExportConfig(c.Context)
	if err != nil {
		return err
	}
	return e.printTOML(c, text)
}

// printTOML prints settings as they stand in a file.
func (e *env) printTOML(c *cli.Context, text string) error {
	return e.print(c, map[string]string{"toml": text}, func() { fmt.Fprint(e.out, text) })
}

func (e *env) configReload(c *cli.Context) error {
	client := e.client(c)
	defer client.Close()
	r, err := client.Reload(c.Context)
	if err != nil {
		return err
	}
	return e.print(c, r, func() { e.line("%s", r.Text) })
}
