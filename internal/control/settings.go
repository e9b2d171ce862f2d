package control

import (
	"context"
	"slices"
	"strings"

	"osm/internal/config"
	"osm/policy"
	store "osm/sql"
)

// StoredSettings are the database's settings as package config takes them.
func StoredSettings(list []store.Setting) []config.Stored {
	out := make([]config.Stored, 0, len(list))
	for _, s := range list {
		out = append(out, config.Stored{Key: s.Key, Value: s.Value, Provenance: s.Provenance})
	}
	return out
}

// Settings lists the settings that can be changed while the daemon runs.
func (s *Service) Settings(ctx context.Context, a Actor) (List[Setting], error) {
	if err := operatorOnly(a, "see the settings"); err != nil {
		return List[Setting]{}, err
	}
	stored, err := s.o.Store.Settings(ctx)
	if err != nil {
		return List[Setting]{}, found(err, "", "no settings")
	}
	l := List[Setting]{Items: []Setting{}}
	for _, live := range config.LiveSettings() {
		l.Items = append(l.Items, s.settingRow(&live, stored))
	}
	return l, nil
}

// settingRow shows one setting as it is in force.
func (s *Service) settingRow(live *config.Live, stored []store.Setting) Setting {
	cfg, shipped := s.o.Config(), config.Default()
	out := Setting{Key: live.Key, Kind: live.Kind, Choices: live.Choices, Text: live.Text, Origin: cfg.Origin(live.Key)}
	out.Value, _ = cfg.Value(live.Key)
	out.Default, _ = shipped.Value(live.Key)
	if i := slices.IndexFunc(stored, func(x store.Setting) bool { return x.Key == live.Key }); i >= 0 && strings.HasPrefix(out.Origin, "database") {
		p := &stored[i].Provenance
		out.Origin = "database"
		if p.By != "" {
			out.Origin += ", by " + p.By
		}
		out.By, out.At, out.Reason = p.By, Time{Time: p.At}, p.Reason
	}
	return out
}

// storedSetting is what the audit keeps of a setting: enough to put it back.
type storedSetting struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	Where string `json:"where"` // default, file or database
}

// settingNow is a setting for the audit.
func (s *Service) settingNow(key string) storedSetting {
	cfg := s.o.Config()
	out := storedSetting{Key: key}
	out.Value, _ = cfg.Value(key)
	out.Where, _, _ = strings.Cut(cfg.Origin(key), ",")
	return out
}

// Set changes a setting, and wins over the file; unset (value nil) gives the file's back.
func (s *Service) Set(ctx context.Context, a Actor, key string, value *string, reason string) (Setting, error) {
	if err := operatorOnly(a, "change settings"); err != nil {
		return Setting{}, err
	}
	reason, err := reasonLine(reason)
	if err != nil {
		return Setting{}, err
	}
	live, err := liveSetting(key)
	if err != nil {
		return Setting{}, err
	}
	old, what := s.settingNow(key), didSet
	if value == nil {
		what = didUnset
		err = s.o.Store.DeleteSetting(ctx, key)
		err = found(err, "it has the value of osm.toml, or the default", "setting %s was not set here", key)
	} else {
		err = s.putSetting(ctx, a, key, *value, reason)
	}
	if err != nil {
		return Setting{}, err
	}
	inForce := s.inForce(ctx)
	s.audited(ctx, a, what, key, compact(old), compact(s.settingNow(key)), reason)
	stored, err := s.o.Store.Settings(ctx)
	if err != nil {
		return Setting{}, found(err, "", "no settings")
	}
	return s.settingRow(live, stored), inForce
}

func liveSetting(key string) (*config.Live, error) {
	all := config.LiveSettings()
	if i := slices.IndexFunc(all, func(l config.Live) bool { return l.Key == key }); i >= 0 {
		return &all[i], nil
	}
	_, wrong := config.Config{}.With([]config.Stored{{Key: key}})
	return nil, notFound("osmctl settings list shows them", "%s", wrong.Error())
}

// putSetting stores a setting, if the configuration would be in order with it.
func (s *Service) putSetting(ctx context.Context, a Actor, key, value, reason string) error {
	stored, err := s.o.Store.Settings(ctx)
	if err != nil {
		return found(err, "", "no settings")
	}
	next := slices.DeleteFunc(StoredSettings(stored), func(x config.Stored) bool { return x.Key == key })
	next = append(next, config.Stored{Key: key, Value: value})
	cfg, wrong := s.o.Config().With(next)
	for _, m := range wrong {
		if m.Key == key || strings.HasPrefix(key, "store.") && strings.HasPrefix(m.Key, "store.") {
			e := invalid("", "the setting cannot be so")
			e.Mistakes = []string{m.Error()}
			return e
		}
	}
	for _, t := range s.o.Engine.Effective(s.o.Clock().Wall, policy.Identity{}) {
		if key == "store.keep_decisions" && t.Per > cfg.Store.KeepDecisions && t.Mode != policy.Off {
			return invalid("", "%s is less than the period of trigger %s (%s): counters are refilled from stored decisions", value, t.Name, Period(t.Per))
		}
	}
	normal, _ := cfg.Value(key)
	err = s.o.Store.PutSetting(ctx, store.Setting{Key: key, Value: normal, Provenance: policy.Provenance{By: a.Name, At: s.o.Clock().Wall, Reason: reason}})
	return found(err, "", "no setting")
}
