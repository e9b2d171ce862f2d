package whm

import (
	"cmp"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"osm/internal/control"
)

// auditBody is who changed what.
type auditBody struct {
	Since string
	List  control.List[control.AuditEntry]
}

// auditPage lists what was changed, the newest first.
func (c *call) auditPage() error {
	b := &auditBody{}
	var since time.Time
	since, b.Since = c.since("")
	var err error
	if b.List, err = c.p.service.Audit(c.Context(), c.actor, since, c.page()); err != nil {
		return err
	}
	return c.show("audit", "audit", "Audit", b)
}

// undo takes a change back.
func (c *call) undo() error {
	id, err := c.idOf("id")
	if err != nil {
		return err
	}
	a, err := c.p.service.Undo(c.Context(), c.actor, id, c.form("reason"))
	if err != nil {
		if err := c.refused("undo", err); err != nil {
			return err
		}
		return c.auditPage()
	}
	c.say(fmt.Sprintf("Taken back, by: %s, %s.", a.What, shown(a.Target)), nil)
	return c.done(c.back("audit"))
}

// jsonLines writes an old or new value of the audit so that it can be read: JSON, and maybe
// a reason behind it.
func jsonLines(s string) template.HTML {
	values, d := map[string]any{}, json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	if !strings.HasPrefix(s, "{") || d.Decode(&values) != nil {
		return orNone(s, 240, "–")
	}
	var parts []string
	for name, v := range values {
		if text := fmt.Sprint(v); v != nil && text != "" && text != "0" && text != "false" && !slices.Contains([]string{"id", "at", "by", "where"}, name) {
			parts = append(parts, strings.ReplaceAll(name, "_", " ")+": "+text)
		}
	}
	slices.Sort(parts)
	return quoted(strings.Join(parts, ", ")+s[d.InputOffset():], 240)
}

// settingsBody is what can be changed while the daemon runs.
type settingsBody struct {
	Checking *control.Setting
	Groups   []settingGroup
	Triggers []control.Effective
	Status   control.Status
	Backup   string // where a copy of the database could be put
}

// settingGroup are the settings of one table of osm.toml.
type settingGroup struct {
	Name, Title string
	List        []control.Setting
}

// settingsPage shows the switches, the triggers' modes and all settings.
func (c *call) settingsPage() error {
	list, err := c.p.service.Settings(c.Context(), c.actor)
	if err != nil {
		return err
	}
	b := &settingsBody{Triggers: c.triggers()}
	for _, s := range list.Items {
		if s.Key == "checking" {
			b.Checking = &s
			continue
		}
		table, _, _ := strings.Cut(s.Key, ".")
		if n := len(b.Groups); n == 0 || b.Groups[n-1].Name != table {
			b.Groups = append(b.Groups, settingGroup{Name: table, Title: tableTitle(table)})
		}
		g := &b.Groups[len(b.Groups)-1]
		g.List = append(g.List, s)
	}
	if b.Status, err = c.p.service.Status(c.Context(), c.actor); err != nil {
		return err
	}
	b.Backup = "/var/lib/osm"
	if values, err := c.p.service.Config(c.Context(), c.actor); err == nil {
		for _, v := range values.Items {
			if v.Key == "store.path" {
				b.Backup = path.Dir(strings.Trim(v.Value, `"`))
			}
		}
	}
	b.Backup += "/backup-" + c.now.In(c.p.zone).Format("2006-01-02-1504") + ".db"
	return c.show("settings", "settings", "Settings", b)
}

func tableTitle(table string) string {
	switch table {
	case "held":
		return "Held mail"
	case "store":
		return "What is kept"
	case "limits":
		return "Bounds of memory"
	case "report", "reports":
		return "Reports"
	case "log":
		return "The daemon's log"
	case "exim":
		return "Exim"
	}
	return upperFirst(table)
}

// changeSetting sets a setting, or gives the file's value back.
func (c *call) changeSetting() error {
	key, value := c.form("key"), new(string)
	if *value = c.form("value"); c.form("unset") == "1" {
		value = nil
	}
	s, err := c.p.service.Set(c.Context(), c.actor, key, value, c.form("reason"))
	if err != nil {
		if err := c.refused("set "+key, err); err != nil {
			return err
		}
		return c.settingsPage()
	}
	text := fmt.Sprintf("%s is %s now.", s.Key, shown(s.Value))
	if s.Key == "checking" {
		text = "Checking is on: messages are decided by the triggers below."
		if s.Value == "false" {
			text = "Checking is off: every message is accepted and only recorded."
		}
	}
	c.say(text, c.undoLatest(nil))
	return c.done("settings", "#", "s-"+s.Key)
}

// doctorPage shows what the daemon finds when it looks at every piece.
func (c *call) doctorPage() error {
	list, err := c.p.service.Doctor(c.Context(), c.actor)
	if err != nil {
		return err
	}
	rank := func(k control.Check) int {
		switch {
		case !k.OK:
			return 0
		case k.Skipped:
			return 2
		}
		return 1
	}
	slices.SortStableFunc(list.Items, func(a, b control.Check) int { return cmp.Compare(rank(a), rank(b)) })
	return c.show("doctor", "settings", "Check the installation", list.Items)
}

// configPage shows every value in force and where it stands.
func (c *call) configPage() error {
	list, err := c.p.service.Config(c.Context(), c.actor)
	if err != nil {
		return err
	}
	return c.show("config", "settings", "Every value in force", list.Items)
}

// exportConfig hands out all that is in force as one osm.toml.
func (c *call) exportConfig() error {
	text, err := c.p.service.ExportConfig(c.Context(), c.actor)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	c.w.Header().Set("Content-Disposition", `attachment; filename="osm.toml"`)
	_, _ = c.w.Write([]byte(text)) // the client may have gone
	return nil
}

// checkBody is an osm.toml that somebody wants to try.
type checkBody struct {
	Text     string
	Checked  bool
	Mistakes []string
}

// checkPage shows the form in which a file can be tried.
func (c *call) checkPage() error {
	if c.actor.Role != control.Operator {
		return refusal(http.StatusForbidden, "ask the server's operator", "only an operator may check settings")
	}
	return c.show("check", "settings", "Try an osm.toml", &checkBody{})
}

func (c *call) checkConfig() error {
	b := &checkBody{Text: c.PostForm.Get("toml"), Checked: true}
	list, err := c.p.service.CheckConfig(c.Context(), c.actor, strings.ReplaceAll(b.Text, "\r\n", "\n"))
	if err != nil {
		if err := c.refused("check", err); err != nil {
			return err
		}
		b.Checked = false
	}
	b.Mistakes = list.Items
	return c.show("check", "settings", "Try an osm.toml", b)
}

// reloadConfig reads the file again.
func (c *call) reloadConfig() error {
	r, err := c.p.service.Reload(c.Context(), c.actor)
	if err != nil {
		if err := c.refused("reload", err); err != nil {
			return err
		}
		return c.settingsPage()
	}
	c.say(upperFirst(r.Text)+".", nil)
	return c.done("settings")
}

// backup copies the database.
func (c *call) backup() error {
	done, err := c.p.service.Backup(c.Context(), c.actor, c.form("path"))
	if err != nil {
		if err := c.refused("backup", err); err != nil {
			return err
		}
		return c.settingsPage()
	}
	c.say(fmt.Sprintf("The database was copied to %s (%s).", shown(done.Path), size(done.Bytes)), nil)
	return c.done("settings")
}

// helpPage explains the words and the first day.
func (c *call) helpPage() error {
	return c.show("help", "help", "Help", nil)
}
