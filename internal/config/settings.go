package config

import (
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// settings is every key outside [[trigger]], [[for]] and [[exempt]], in the order of
// the shipped file.
func settings() []key[Config] {
	return slices.Concat(serverSettings(), mailSettings(), boundSettings())
}

func serverSettings() []key[Config] {
	const user = `must be a user or group name: letters, digits, "_", "-" and "."`
	return []key[Config]{
		boolean("checking", func(c *Config) *bool { return &c.Checking }),
		socket("server.policy_socket", func(c *Config) *string { return &c.Server.PolicySocket }),
		socket("server.control_socket", func(c *Config) *string { return &c.Server.ControlSocket }),
		socket("server.inspect_socket", func(c *Config) *string { return &c.Server.InspectSocket }),
		socket("server.executor_socket", func(c *Config) *string { return &c.Server.ExecutorSocket }),
		socket("server.watch_socket", func(c *Config) *string { return &c.Server.WatchSocket }),
		path("server.run_dir", func(c *Config) *string { return &c.Server.RunDir }),
		text("server.user", user, func(c *Config) *string { return &c.Server.User }, isUser),
		text("server.group", user, func(c *Config) *string { return &c.Server.Group }, isUser),
		text("server.admin_group", user, func(c *Config) *string { return &c.Server.AdminGroup }, isUser),
		text("server.metrics_listen", `must be empty, or a loopback address with a port, such as "127.0.0.1:9187": the figures have no login of their own`,
			func(c *Config) *string { return &c.Server.MetricsListen }, isLoopback),
	}
}

func mailSettings() []key[Config] {
	const user = `must be a user or group name: letters, digits, "_", "-" and "."`
	return []key[Config]{
		text("exim.user", user, func(c *Config) *string { return &c.Exim.User }, isUser),
		text("exim.group", user, func(c *Config) *string { return &c.Exim.Group }, isUser),
		path("exim.binary", func(c *Config) *string { return &c.Exim.Binary }),
		path("exim.spool", func(c *Config) *string { return &c.Exim.Spool }),
		duration("exim.deadline", func(c *Config) *time.Duration { return &c.Exim.Deadline }, 10*time.Millisecond, 900*time.Millisecond, "250ms"),
		number("exim.max_connections", func(c *Config) *int64 { return &c.Exim.MaxConnections }, 16, 100_000),

		choice("accounts.source", func(c *Config) *string { return &c.Accounts.Source }, "auto", "cpanel", "directadmin", "passwd"),
		names("accounts.shared_users", `must be a list of user names, such as ["nobody", "www-data"]`,
			func(c *Config) *[]string { return &c.Accounts.SharedUsers }, isUser),
		number("accounts.min_uid", func(c *Config) *int64 { return &c.Accounts.MinUID }, 1, 1<<31),
	}
}

func boundSettings() []key[Config] {
	return []key[Config]{
		path("store.path", func(c *Config) *string { return &c.Store.Path }),
		duration("store.keep_decisions", func(c *Config) *time.Duration { return &c.Store.KeepDecisions }, time.Hour, 400*day, "14d"),
		duration("store.keep_events", func(c *Config) *time.Duration { return &c.Store.KeepEvents }, day, 10*365*day, "400d"),

		duration("held.keep", func(c *Config) *time.Duration { return &c.Held.Keep }, time.Hour, 365*day, "30d"),
		number("held.max_messages", func(c *Config) *int64 { return &c.Held.MaxMessages }, 1, 1_000_000),
		ranged(parsed("held.max_bytes", `must be a size from 1MB to 1000GB, such as "500MB"`,
			func(c *Config) *int64 { return &c.Held.MaxBytes }, ParseBytes, FormatBytes),
			func(c *Config) bool { return c.Held.MaxBytes >= 1e6 && c.Held.MaxBytes <= 1e12 }),
		choice("held.full", func(c *Config) *string { return &c.Held.Full }, "freeze", "discard"),
		ranged(parsed("held.release_rate", `must be a number of messages per s, min or h, at most 100 a second, such as "60/min"`,
			func(c *Config) *Rate { return &c.Held.ReleaseRate }, ParseRate, Rate.String),
			func(c *Config) bool {
				return c.Held.ReleaseRate.N > 0 && c.Held.ReleaseRate.Every() >= 10*time.Millisecond
			}),
		duration("held.grace", func(c *Config) *time.Duration { return &c.Held.Grace }, 0, 7*day, "30m"),

		duration("actions.again", func(c *Config) *time.Duration { return &c.Actions.Again }, time.Minute, 31*day, "1d"),
		choice("actions.script_format", func(c *Config) *string { return &c.Actions.ScriptFormat }, "json", "yaml", "xml", "perl"),
		boolean("actions.lift_on_new_password", func(c *Config) *bool { return &c.Actions.LiftOnNewPassword }),
		boolean("actions.dry_run", func(c *Config) *bool { return &c.Actions.DryRun }),

		names("report.mail_to", `must be a list of addresses, such as ["root", "abuse@example.org"]`, func(c *Config) *[]string { return &c.Report.MailTo }, isAddress),
		text("report.mail_from", `must be empty (osm@ and the host's name), or an address`, func(c *Config) *string { return &c.Report.MailFrom },
			func(s string) bool { return s == "" || isAddress(s) && strings.Contains(s, "@") }),
		boolean("report.to_reseller", func(c *Config) *bool { return &c.Report.ToReseller }),
		boolean("report.to_customer", func(c *Config) *bool { return &c.Report.ToCustomer }),
		duration("report.digest", func(c *Config) *time.Duration { return &c.Report.Digest }, time.Hour, 7*day, "1h"),
		text("report.smtp", `must be a loopback address with a port, such as "127.0.0.1:25"`, func(c *Config) *string { return &c.Report.SMTP },
			func(s string) bool { return s != "" && isLoopback(s) }),
		path("report.templates", func(c *Config) *string { return &c.Report.Templates }),
		text("report.webhook", `must be empty, or an http or https address`, func(c *Config) *string { return &c.Report.Webhook }, isWebhook),
		text("report.webhook_secret_file", "must be empty, or an absolute path without . or .. in it", func(c *Config) *string { return &c.Report.WebhookSecretFile },
			func(s string) bool { return s == "" || isPath(s) }),
		boolean("report.syslog", func(c *Config) *bool { return &c.Report.Syslog }),

		text("evidence.apache", `must be empty, or an http address on this host, such as "http://127.0.0.1:80"`, func(c *Config) *string { return &c.Evidence.Apache }, isLocalHTTP),
		text("evidence.apache_key_file", "must be empty, or an absolute path without . or .. in it", func(c *Config) *string { return &c.Evidence.ApacheKeyFile },
			func(s string) bool { return s == "" || isPath(s) }),
		names("evidence.fpm", `must be a list of "POOL SOCKET STATUS-PATH", such as ["www /run/php/php8.2-fpm.sock /status"]`, func(c *Config) *[]string { return &c.Evidence.FPM }, isFPM),
		number("evidence.near_percent", func(c *Config) *int64 { return &c.Evidence.NearPercent }, 1, 100),

		choice("direct.source", func(c *Config) *string { return &c.Direct.Source }, "auto", "ebpf", "packet", "poll", "off"),
		numbers("direct.ports", "must be a list of 1 to 8 ports, such as [25, 465, 587]", func(c *Config) *[]int64 { return &c.Direct.Ports }, arePorts),
		names("direct.exempt_users", `must be a list of user names, such as ["mailman"]`, func(c *Config) *[]string { return &c.Direct.ExemptUsers }, isUser),
		boolean("direct.count_root", func(c *Config) *bool { return &c.Direct.CountRoot }),

		number("limits.distinct_per_account", func(c *Config) *int64 { return &c.Limits.DistinctPerAccount }, 16, 65_535),

		choice("log.level", func(c *Config) *string { return &c.Log.Level }, "debug", "info", "warn", "error"),
		choice("log.format", func(c *Config) *string { return &c.Log.Format }, "text", "json"),
	}
}

// arePorts allows the ports that the sources of connections can be told of.
func arePorts(list []int64) bool {
	seen := map[int64]bool{}
	for _, p := range list {
		if p < 1 || p > 65_535 || seen[p] {
			return false
		}
		seen[p] = true
	}
	return len(list) >= 1 && len(list) <= 8
}

// ranged adds what values are allowed to a parsed key.
func ranged[T any](k key[T], ok func(*T) bool) key[T] {
	k.ok = ok
	return k
}

// path is a key whose value is an absolute, clean path.
func path[T any](name string, p func(*T) *string) key[T] {
	return text(name, "must be an absolute path without . or .. in it", p, isPath)
}

// socket is a path that fits into a socket address: Linux has 108 bytes for it, the
// last one being zero.
func socket(name string, p func(*Config) *string) key[Config] {
	return text(name, "must be an absolute path of at most 107 bytes", p, func(s string) bool { return isPath(s) && len(s) <= 107 })
}

// isAddress allows a mailbox, or a local user's name: what may stand in MAIL and RCPT
// without quoting (RFC 5321 section 4.1.2, dot-string).
func isAddress(s string) bool {
	return len(s) <= 254 && reAddress.MatchString(s)
}

var reAddress = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*(@[A-Za-z0-9-]+(\\.[A-Za-z0-9-]+)*)?$")

func isWebhook(s string) bool {
	if s == "" {
		return true
	}
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil && len(s) <= 2048
}

// isLocalHTTP allows a web server of this host: what is asked there may hold a key.
func isLocalHTTP(s string) bool {
	if s == "" {
		return true
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.User != nil {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return err == nil && ip.IsLoopback()
}

func isFPM(s string) bool {
	f := strings.Split(s, " ")
	return len(f) == 3 && f[0] != "" && (isPath(f[1]) || f[1] != "" && isLoopback(f[1])) && strings.HasPrefix(f[2], "/") &&
		!strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

func isPath(s string) bool {
	return filepath.IsAbs(s) && filepath.Clean(s) == s && s != "/" && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func isUser(s string) bool {
	ok, _ := regexp.MatchString(`^[A-Za-z_][A-Za-z0-9_.-]{0,31}$`, s)
	return ok
}

func isLoopback(s string) bool {
	if s == "" {
		return true
	}
	ap, err := netip.ParseAddrPort(s)
	return err == nil && ap.Addr().IsLoopback() && ap.Port() > 0
}

// isDomain accepts a host name in ASCII, as panels and DNS write it.
func isDomain(s string) bool {
	ok, _ := regexp.MatchString(`^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z0-9-]{2,63}$`, s)
	return ok && len(s) <= 253
}
