package main

import (
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"osm/internal/manual"
)

// manCommand prints the manual page, for "make man".
func manCommand() *cli.Command {
	return &cli.Command{Name: "man", Hidden: true, Usage: "print the manual page", Action: func(*cli.Context) error {
		_, err := os.Stdout.Write(manPage(app()))
		return err
	}}
}

// manPage is osmd(8): the flags come from the definitions, the rest stands here.
func manPage(app *cli.App) []byte {
	app.Setup() // adds --help and --version
	p := manual.New("osmd", "8", app.Usage)
	p.Section("synopsis")
	p.Synopsis("osmd", "[-config FILE] [-executor-config FILE]")
	p.Synopsis("osmd", "-t [-config FILE]")
	p.Section("description")
	p.Text(`osmd is asked by Exim, over a Unix socket, about each outgoing message before Exim accepts
it. It finds out whose message it is, counts it, and answers accept, freeze, discard, defer or
deny. Whatever goes wrong with it, Exim accepts the message and writes into its log that it was
not checked.

It stays in the foreground and logs on standard error. Started as root it makes its sockets,
starts the parts that stay root (see PARTS), and goes on as the user "osm" without any
privilege. Under systemd the sockets come from socket units and the parts are units of their
own. Started by anybody else it does everything in one process, in folders that the
configuration has to name.

What it does is seen and changed with osmctl(8); its settings are in osm.toml(5).`)
	p.Section("options")
	manFlags(p, app.Flags)
	p.Section("parts")
	p.Text("They are started by osmd itself or by systemd, never by hand: each is handed its socket.")
	for _, c := range app.Commands {
		if c.Hidden {
			continue
		}
		p.Sub("osmd " + c.Name)
		p.Text(strings.ToUpper(c.Usage[:1]) + c.Usage[1:] + ".")
		manFlags(p, c.Flags)
	}
	p.Section("executor.toml")
	p.Text(`What "osmd executor" may do is set in a file of its own, which belongs to root and which nobody
else may write; neither osmd nor its database can change it. A missing file means the defaults,
which are shown.`)
	for _, k := range executorKeys() {
		p.Item(manual.Word(k[0]+" = "+k[1]), k[2])
	}
	p.Section("signals")
	p.Item(manual.Word("SIGHUP"), `read the configuration again, as "osmctl config reload" does; with a mistake in it nothing changes`)
	p.Item(manual.Word("SIGTERM, SIGINT"), "answer what is being asked, write down counters and decisions, and end")
	p.Section("exit status")
	p.Item(manual.Word("0"), "it was told to end, or with -t: the configuration can be used")
	p.Item(manual.Word("1"), "it could not start or go on; standard error says why and what to do")
	p.Item(manual.Word("2"), "the command line was not understood")
	p.Section("files")
	for _, f := range [][2]string{
		{"/etc/osm/osm.toml", "the configuration"},
		{"/etc/osm/executor.toml", "what the executor may do"},
		{"/run/osm/policy.sock", "where Exim asks: 0660, group Debian-exim"},
		{"/run/osm/control.sock", "where osmctl asks: 0660, group osm-admin"},
		{"/run/osm/inspect.sock", "where osmd asks the inspector: 0660, group osm"},
		{"/run/osm/executor.sock", "where osmd asks the executor: 0660, group osm"},
		{"/run/osm/watch.sock", "where osmd follows the watch: 0660, group osm"},
		{"/run/osm/maps", "copies of the panel's account maps that only root may read"},
		{"/var/lib/osm/osm.db", "the database, with its -wal and -shm while osmd runs"},
		{"/var/lib/osm/counters.snapshot", "the counters, every ten seconds and at the end"},
		{"/var/lib/osm-executor", "what the executor has changed, by which it takes it back; root's alone"},
	} {
		p.Item(manual.File(f[0]), f[1])
	}
	p.SeeAlso("osmctl(8)", "osm.toml(5)", "exim(8)")
	return p.Bytes()
}

// executorKeys are the settings of executor.toml with their defaults and meanings.
func executorKeys() [][3]string {
	return [][3]string{
		{"peer_user", `"osm"`, "who may ask, besides root"},
		{"exim_user", `"Debian-exim"`, "who owns the files of Exim's spool"},
		{"exim_binary", `"/usr/sbin/exim4"`, "the program that changes the queue"},
		{"exim_spool", `"/var/spool/exim4"`, "where Exim keeps its queue"},
		{"deliver_prefix", "[]", "words that are put before the program for deliveries, a program's absolute path first; where systemd started the executor and none are set, deliveries run outside its unit, by systemd-run"},
		{"command_limit", `"30s"`, "the longest that a command may take; deliveries have their own limit"},
		{"deliver_limit", `"30m"`, "the longest that a delivery may take"},
		{"deliver_grace", `"5s"`, "how long a delivery may go on when the executor is told to end"},
		{"deliver_at_once", "4", "deliveries at the same time"},
		{"ids_per_second", "200", "messages that may be acted on in a second"},
		{"max_connections", "16", "connections at the same time"},
		{"actions", `["panel-hold", "block-login", "rename-script", "rename-path", "block-ip", "block-direct", "suspend-account", "run-script"]`, "what it may do at all, beside keeping the queue; [] = nothing"},
		{"rates", `{ panel-hold = 60, block-login = 60, rename-script = 30, rename-path = 30, block-ip = 120, block-direct = 60, suspend-account = 10, run-script = 600 }`, "of each action, at most so many an hour; what is more is refused, and only reported"},
		{"state_dir", `"/var/lib/osm-executor"`, "where it writes down what is in force, to take it back: root's alone"},
		{"change_limit", `"2m"`, "the longest that one command of panel or firewall may take"},
		{"command_prefix", "[]", "words that are put before commands of panel and firewall, as with deliver_prefix"},
		{"min_uid", "1000", "users with a lower uid are no accounts: nothing is done to them"},
		{"protected_accounts", "[]", "accounts that nothing is ever done to"},
		{"rename_any", "false", "true: rename-path also takes public_html, mail and other folders that a home needs; the home itself never"},
		{"panel", `"auto"`, `which hosting panel there is: "cpanel", "commands" (see command), "none"; "auto" finds out`},
		{"whmapi1", `"/usr/local/cpanel/bin/whmapi1"`, "cPanel's program for accounts"},
		{"uapi", `"/usr/local/cpanel/bin/uapi"`, "cPanel's program for mailboxes"},
		{"doveadm", `"/usr/bin/doveadm"`, "Dovecot's program that ends a mailbox's open sessions"},
		{"command", "{}", `[command.suspend-account], [command.block-login] and [command.panel-hold] say how that is done where panel = "commands": do, undo and check are lists of words in which {account} and {mailbox} are filled in; check exits with 0 when it is in force, and with 1 and nothing on standard error when not`},
		{"firewall", `"auto"`, `what blocks an address: "csf", "nft", "none"; "auto" takes csf where it is installed. block-direct needs nftables beside any of them, and is refused with "none"`},
		{"csf", `"/usr/sbin/csf"`, "csf's program"},
		{"nft", `"/usr/sbin/nft"`, "nftables' program, for addresses and for block-direct; osm has tables of its own"},
		{"never_block", "[]", "addresses and networks that are never blocked, beside private ones and this host's own"},
		{"script", "[]", `[[script]] with name, command (a list of words, absolute path first), user ("nobody"), file (false: the report is on standard input), time_limit ("30s") and output_limit (65536 bytes): what run-script may run`},
	}
}

func manFlags(p *manual.Page, list []cli.Flag) {
	for _, f := range list {
		d, ok := f.(cli.DocGenerationFlag)
		if v, hides := f.(cli.VisibleFlag); !ok || hides && !v.IsVisible() {
			continue
		}
		usage, value := d.GetUsage(), ""
		if before, rest, found := strings.Cut(usage, "`"); found {
			name, after, _ := strings.Cut(rest, "`")
			usage, value = before+name+after, name
		}
		var names []string
		for _, n := range f.Names() {
			names = append(names, "-"+n)
		}
		if !d.TakesValue() {
			value = ""
		} else if def := strings.Trim(d.GetDefaultText(), `"`); def != "" {
			usage += " (default: " + def + ")"
		}
		p.Item(manual.Term{Names: names, Value: value}, usage)
	}
}
