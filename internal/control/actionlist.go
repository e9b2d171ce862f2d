package control

import (
	"time"

	"osm/internal/config"
	"osm/policy"
)

// String writes an action as "osmctl limit set --actions" takes it.
func (e LimitEntry) String() string {
	a := e.policy()
	return config.FormatAction(&a)
}

func (e LimitEntry) policy() policy.Action {
	return policy.Action{Name: e.Name, For: time.Duration(e.For), From: e.From, Script: e.Script, ConfirmLoss: e.ConfirmLoss}
}

func entriesOf(list []policy.Action) []LimitEntry {
	out := []LimitEntry{}
	for _, a := range list {
		out = append(out, LimitEntry{Name: a.Name, For: Period(a.For), From: a.From, Script: a.Script, ConfirmLoss: a.ConfirmLoss})
	}
	return out
}

// ParseActions reads a list of actions: "report,hold=1h,2:block-login=24h".
func ParseActions(s string) ([]LimitEntry, error) {
	list, err := config.ParseActions(s)
	return entriesOf(list), err
}
