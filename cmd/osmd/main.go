// Command osmd is the daemon that Exim asks about each outgoing message before it
// accepts it.
//
// main.go reads the command line; start.go makes the sockets, starts the parts
// that stay root and gives root away; daemon.go wires the parts and runs them;
// flow.go is the way of one message; reload.go swaps rules while mail flows.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"
)

// version is set at build time.
var version = "unknown"

func main() {
	// Started from /proc/self/exe, as the stages and parts are, it would be "exe" to ps and
	// pgrep. Where that cannot be written nothing else is lost.
	_ = os.WriteFile("/proc/self/comm", []byte("osmd"), 0)
	if err := app().Run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "osmd:", err)
		var coded cli.ExitCoder
		if errors.As(err, &coded) {
			os.Exit(coded.ExitCode())
		}
		os.Exit(1)
	}
}

func app() *cli.App {
	configFlag := &cli.StringFlag{Name: "config", Aliases: []string{"c"}, Value: "/etc/osm/osm.toml", Usage: "read the configuration from `FILE`"}
	executorFlag := &cli.StringFlag{Name: "executor-config", Value: "/etc/osm/executor.toml", Usage: "read what the executor may do from root's own `FILE`"}
	return &cli.App{
		Name:            "osmd",
		Usage:           "decide about each outgoing message before Exim accepts it",
		Version:         version,
		HideHelpCommand: true,
		Flags: []cli.Flag{
			configFlag, executorFlag,
			&cli.BoolFlag{Name: "without-store", Hidden: true, Usage: "for measuring: decide and count, but store no decision"},
			&cli.BoolFlag{Name: "t", Usage: "check the configuration, name every mistake, and exit"},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return cli.Exit(fmt.Sprintf("unknown command %.80q; see osmd --help", c.Args().First()), 2)
			}
			if c.Bool("t") {
				return checkConfig(c.String("config"), os.Stdout)
			}
			return start(options{config: c.String("config"), executor: c.String("executor-config"), withoutStore: c.Bool("without-store")})
		},
		Commands: []*cli.Command{
			{Name: "inspect", Usage: "the part that looks at processes as root (started by osmd or systemd)",
				Flags:  []cli.Flag{configFlag},
				Action: func(c *cli.Context) error { return inspect(c.String("config")) }},
			{Name: "executor", Usage: "the part that runs a fixed list of commands as root (started by osmd or systemd)",
				Flags:  []cli.Flag{configFlag, executorFlag},
				Action: func(c *cli.Context) error { return execute(c.String("config"), c.String("executor-config")) }},
			{Name: "watch", Usage: "the part that sees connections bypass Exim (started by osmd or systemd)",
				Flags:  []cli.Flag{configFlag},
				Action: func(c *cli.Context) error { return watch(c.String("config")) }},
			manCommand(),
		},
	}
}
