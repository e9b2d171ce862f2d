package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"osm/actions"
	"osm/internal/config"
	"osm/policy"
	store "osm/sql"
)

// Status tells how the daemon and its parts are doing.
func (s *Service) Status(ctx context.Context, a Actor) (Status, error) {
	if err := operatorOnly(a, "see how the daemon is doing"); err != nil {
		return Status{}, err
	}
	cfg, state, rules := s.o.Config(), s.o.State(), s.o.Engine.Rules()
	st := Status{
		Version: s.o.Version, StartedAt: Time{Time: s.o.StartedAt}, Exim: state.Exim, Store: storePart(s.o.Store.Health()), Monitor: state.Monitor,
		Inspect: state.Inspect, Executor: state.Executor, Checks: state.Checks, Shed: state.Shed, Unchecked: state.Unchecked, Alarms: state.Alarms,
	}
	if st.Alarms == nil {
		st.Alarms = []Alarm{}
	}
	st.Config.Path, st.Config.Checking, st.Config.Error = cfg.Path, cfg.Checking, state.ConfigError
	st.Config.LoadedAt = Time{Time: state.ConfigLoadedAt}
	now := s.o.Clock().Wall
	for i := range rules.Triggers {
		switch modeOf(&rules.Triggers[i], rules.Overrides, now) {
		case policy.Enforce:
			st.Config.Triggers.Enforcing++
		case policy.Observe:
			st.Config.Triggers.Observing++
		default:
			st.Config.Triggers.Off++
		}
	}
	m := s.o.Accounts()
	st.Accounts.Part, st.Accounts.Panel, st.Accounts.Domains = state.Accounts, m.Panel(), m.Domains()
	st.Accounts.Accounts, st.Accounts.LoadedAt = len(m.Accounts()), Time{Time: m.LoadedAt()}
	s.statusOfStore(ctx, &st)
	return st, nil
}

// modeOf is a trigger's mode for everybody for whom nothing narrower than the server's is
// set.
func modeOf(t *policy.Trigger, overrides []policy.Override, now time.Time) policy.Mode {
	mode, at := t.Mode, time.Time{}
	for i := range overrides {
		o := &overrides[i]
		applies := o.Level == policy.LevelServer && o.Mode != nil && (o.Trigger == "" || o.Trigger == t.Name) && (o.Until.IsZero() || o.Until.After(now))
		if applies && !o.Provenance.At.Before(at) { // the newest wins
			mode, at = *o.Mode, o.Provenance.At
		}
	}
	return mode
}

// statusOfStore adds what only the database knows; a status is worth having without it.
func (s *Service) statusOfStore(ctx context.Context, st *Status) {
	totals, err := s.o.Store.HeldTotals(ctx)
	for _, t := range totals {
		st.Held.Messages += t.Messages
		st.Held.Bytes += t.Bytes
	}
	open, openErr := s.o.Store.OpenEvents(ctx)
	st.OpenEvents = len(open)
	now := s.o.Clock().Wall
	for _, h := range s.o.Engine.Rules().Holds {
		if h.Until.IsZero() || h.Until.After(now) {
			st.Holds++
		}
	}
	if err := errors.Join(err, openErr); err != nil {
		st.Store.OK, st.Store.Text = false, st.Store.Text+"; cannot be read: "+err.Error()
	}
}

func storePart(h store.Health) Part {
	if !h.OK {
		return Part{Text: fmt.Sprintf("cannot be written: %s; %s wait in memory, %s had no room", h.Problem, count(int64(h.Queued), "decision"), decimal(int64(h.Dropped))), Since: h.Since}
	}
	text := fmt.Sprintf("in order, %s written, %s waiting, %s MB on disk", decimal(int64(h.Written)), decimal(int64(h.Queued)), decimal((h.DBBytes+h.LogBytes)/1_000_000))
	if h.Dropped > 0 {
		text += fmt.Sprintf(", %s had no room", decimal(int64(h.Dropped)))
	}
	if h.SetAside != "" {
		text += ", a damaged database was set aside as " + h.SetAside
	}
	return Part{OK: true, Text: text}
}

// Doctor is the daemon's own part of looking at every piece.
func (s *Service) Doctor(ctx context.Context, a Actor) (List[Check], error) {
	if err := operatorOnly(a, "look into the daemon"); err != nil {
		return List[Check]{}, err
	}
	st, err := s.Status(ctx, a)
	if err != nil {
		return List[Check]{}, err
	}
	l := List[Check]{Items: []Check{
		partCheck("store", st.Store, "look at the disk that store.path is on: full, read-only?"),
		partCheck("account maps", st.Accounts.Part, "look at the panel's files; the maps before them stay in force"),
		partCheck("inspector (from the daemon)", st.Inspect, "systemctl status osm-inspect"),
		partCheck("executor (from the daemon)", st.Executor, "systemctl status osm-executor"),
		partCheck("connections past exim", st.Monitor.Part, "systemctl status osm-watch; docs/bypass.md tells what each source needs"),
	}}
	if st.Config.Error != "" {
		l.Items = append(l.Items, bad("config in force", "mend the file, then: osmctl config reload", "the file was refused at the last reload: %s", st.Config.Error))
	}
	l.Items = append(l.Items, s.timersCheck(ctx)...)
	if s.o.Doctor != nil {
		l.Items = append(l.Items, s.o.Doctor(ctx)...)
	}
	l.Items = append(l.Items, s.journal(ctx)...)
	for _, alarm := range st.Alarms {
		l.Items = append(l.Items, bad("alarm "+alarm.Name, "", "%s", alarm.Text))
	}
	return l, nil
}

// journal tells what happened to the daemon itself in the last week, such as a gap in
// which mail was accepted unchecked: nothing to mend, but to know.
func (s *Service) journal(ctx context.Context) []Check {
	list, _, err := s.o.Store.Journal(ctx, s.o.Clock().Wall.Add(-7*24*time.Hour), 20, "")
	if err != nil {
		return []Check{bad("journal", "see osmctl status", "it could not be read: %v", err)}
	}
	var out []Check
	for _, e := range list {
		out = append(out, skipped("journal", "%s: %s at %s", e.Kind, e.Text, e.At.In(s.o.Zone).Format("2006-01-02 15:04:05 MST")))
	}
	return out
}

// timersCheck asks Exim, by way of the executor, whether it keeps held mail.
func (s *Service) timersCheck(ctx context.Context) []Check {
	if s.o.Executor == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	options, err := s.o.Executor.EximOptions(ctx)
	var e *actions.ExecutorError
	if errors.As(err, &e) && e.Exim {
		return []Check{eximBroken(e)}
	}
	if err != nil {
		return []Check{bad("exim (from the daemon)", "systemctl status osm-executor", "its settings could not be read: %v", err)}
	}
	cfg := s.o.Config()
	return []Check{eximHooks(options), eximTimers(options, cfg.Held.Keep)}
}

// partCheck makes a check of a part; one that the daemon says nothing about is skipped.
func partCheck(name string, p Part, hint string) Check {
	switch {
	case p.OK:
		return ok(name, "%s", orNothing(p.Text, "in order"))
	case p.Text == "":
		return skipped(name, "the daemon does not tell")
	}
	return bad(name, hint, "%s", p.Text)
}

// Config lists every value in force and where it stands.
func (s *Service) Config(ctx context.Context, a Actor) (List[ConfigSetting], error) {
	cfg, err := s.effective(ctx, a)
	if err != nil {
		return List[ConfigSetting]{}, err
	}
	l := List[ConfigSetting]{}
	for _, one := range cfg.Settings() {
		l.Items = append(l.Items, ConfigSetting(one))
	}
	return l, nil
}

// ExportConfig writes everything in force as one osm.toml.
func (s *Service) ExportConfig(ctx context.Context, a Actor) (string, error) {
	cfg, err := s.effective(ctx, a)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if err := cfg.Export(&b); err != nil {
		return "", err
	}
	return b.String(), nil
}

// effective is file and database together.
func (s *Service) effective(ctx context.Context, a Actor) (config.Config, error) {
	if err := operatorOnly(a, "see the settings"); err != nil {
		return config.Config{}, err
	}
	overrides, err := s.o.Store.Overrides(ctx)
	if err != nil {
		return config.Config{}, found(err, "", "no limits")
	}
	stored, err := s.o.Store.Exemptions(ctx)
	if err != nil {
		return config.Config{}, found(err, "", "no exemptions")
	}
	var exemptions []policy.Exemption
	for i := range stored {
		exemptions = append(exemptions, stored[i].Exemption)
	}
	cfg := s.o.Config()
	return cfg.Effective(overrides, exemptions, s.o.Clock().Wall), nil
}

// CheckConfig names every mistake in the text of an osm.toml, those included that only
// show together with what stands in the database.
func (s *Service) CheckConfig(ctx context.Context, a Actor, text string) (List[string], error) {
	if err := operatorOnly(a, "check settings"); err != nil {
		return List[string]{}, err
	}
	l := List[string]{Items: []string{}}
	cfg, err := config.Parse([]byte(text), "", s.o.Zone)
	var mistakes config.Mistakes
	switch {
	case errors.As(err, &mistakes):
		for _, m := range mistakes {
			l.Items = append(l.Items, m.Error())
		}
		return l, nil
	case err != nil:
		return l, err
	}
	stored, err := s.o.Store.Overrides(ctx)
	if err != nil {
		return l, found(err, "", "no limits")
	}
	for i := range stored {
		for _, m := range policy.ValidateOverride(&stored[i], cfg.Triggers) {
			l.Items = append(l.Items, fmt.Sprintf("limit %d in the database would do nothing any more: %s", stored[i].ID, m))
		}
	}
	settings, err := s.o.Store.Settings(ctx)
	if err != nil {
		return l, found(err, "", "no settings")
	}
	_, wrong := cfg.With(StoredSettings(settings))
	for _, m := range wrong {
		l.Items = append(l.Items, fmt.Sprintf("a setting in the database would do nothing any more: %s", m.Error()))
	}
	return l, nil
}

// Reload reads the file again. With a mistake in it nothing changes.
func (s *Service) Reload(ctx context.Context, a Actor) (Reloaded, error) {
	if err := operatorOnly(a, "reload the settings"); err != nil {
		return Reloaded{}, err
	}
	path := s.o.Config().Path
	if s.o.Reload == nil {
		return Reloaded{}, unavailable("restart it", "this daemon cannot reload")
	}
	text, err := s.o.Reload(ctx)
	var mistakes config.Mistakes
	switch {
	case errors.As(err, &mistakes):
		e := invalid("nothing was changed: the settings before stay in force", "%s has %s", path, count(int64(len(mistakes)), "mistake"))
		for _, m := range mistakes {
			e.Mistakes = append(e.Mistakes, m.Error())
		}
		return Reloaded{}, e
	case err != nil:
		return Reloaded{}, invalid("the settings before stay in force", "reload %s: %v", path, err)
	}
	s.audited(ctx, a, "config reload", path, "", "reloaded", "")
	s.o.Kick()
	if text == "" {
		text = path + " is in force"
	}
	return Reloaded{Path: path, Text: text}, nil
}

// Backup writes a copy of the database into a new file.
func (s *Service) Backup(ctx context.Context, a Actor, path string) (BackedUp, error) {
	if err := operatorOnly(a, "copy the database"); err != nil {
		return BackedUp{}, err
	}
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return BackedUp{}, badRequest("%.200q is no absolute path without . and ..", path)
	}
	if _, err := os.Lstat(path); err == nil {
		return BackedUp{}, failure(409, "name a file that does not exist yet", "%.200q is there already", path)
	}
	if err := s.o.Store.Backup(ctx, path); err != nil {
		if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
			return BackedUp{}, invalid("name a folder in which the daemon's user may write, such as that of the database ("+filepath.Dir(s.o.Config().Store.Path)+")", "%v", err)
		}
		return BackedUp{}, found(err, "", "no database")
	}
	st, err := os.Stat(path)
	if err != nil {
		return BackedUp{}, fmt.Errorf("look at the backup: %w", err)
	}
	s.audited(ctx, a, "backup", path, "", fmt.Sprintf("%d bytes", st.Size()), "")
	return BackedUp{Path: path, Bytes: st.Size()}, nil
}
