package config

import (
	"fmt"
	"strconv"
	"strings"

	"osm/policy"
)

// untilUndone stands for an action without an end in a table that says more about it.
const untilUndone = "until undone"

// actionOf reads { hold = "1h" }, { block-login = "24h", from = 2 }, { run-script = "ticket" }
// or { discard = "1h", confirm_loss = true }.
func actionOf(table map[string]any) (a policy.Action, ok bool) {
	for name, v := range table {
		switch name {
		case "from":
			if a.From, ok = whole(v); !ok {
				return a, false
			}
		case "confirm_loss":
			if a.ConfirmLoss, ok = v.(bool); !ok {
				return a, false
			}
		default:
			s, is := v.(string)
			if !is || a.Name != "" || !setArgument(&a, name, s) {
				return a, false
			}
		}
	}
	return a, a.Name != ""
}

// actionValue is the inverse of actionOf and of a plain name.
func actionValue(a *policy.Action) any {
	arg := argument(a)
	if arg == "" && a.From < 2 && !a.ConfirmLoss {
		return a.Name
	}
	if arg == "" {
		arg = untilUndone
	}
	table := map[string]any{a.Name: arg}
	if a.From > 1 {
		table["from"] = a.From
	}
	if a.ConfirmLoss {
		table["confirm_loss"] = true
	}
	return table
}

// setArgument reads what stands beside an action's name: a script's name, or how long.
func setArgument(a *policy.Action, name, s string) bool {
	a.Name = name
	if name == policy.ActionRunScript {
		a.Script = s
		return true
	}
	if s == untilUndone {
		return true
	}
	d, err := ParseDuration(s)
	a.For = d
	return err == nil
}

func argument(a *policy.Action) string {
	switch {
	case a.Name == policy.ActionRunScript:
		return a.Script
	case a.For > 0:
		return FormatDuration(a.For)
	}
	return ""
}

// FormatAction writes an action as [ParseActions] reads it: "2:block-login=24h".
func FormatAction(a *policy.Action) string {
	s := a.Name
	if arg := argument(a); arg != "" {
		s += "=" + arg
	}
	if a.From > 1 {
		s = strconv.FormatInt(a.From, 10) + ":" + s
	}
	if a.ConfirmLoss {
		s += " confirm-loss"
	}
	return s
}

// ParseActions reads the list of actions as "osmctl limit set --actions" takes it:
// "report,hold=1h,2:block-login=24h". The number before a colon is the step: from the
// second time on.
func ParseActions(s string) ([]policy.Action, error) {
	out := []policy.Action{}
	for _, one := range splitList(s) {
		a := policy.Action{}
		rest := one
		if step, after, has := cut(rest, ":"); has {
			n, err := strconv.ParseInt(step, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("action %.40q: %.20q before the colon is no number", one, step)
			}
			a.From, rest = n, after
		}
		if before, ok := strings.CutSuffix(rest, " confirm-loss"); ok {
			a.ConfirmLoss, rest = true, strings.TrimSpace(before)
		}
		name, arg, has := cut(rest, "=")
		a.Name = name
		if has && !setArgument(&a, name, arg) {
			return nil, fmt.Errorf("action %.40q: %.20q is no length of time such as 1h", one, arg)
		}
		out = append(out, a)
	}
	return out, nil
}
