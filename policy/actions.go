package policy

import (
	"fmt"
	"slices"
	"strings"
)

// The actions a trigger may name. That an event is stored is no action: it always is.
const (
	ActionReport         = "report"          // write the event for people: mail, webhook, log
	ActionHold           = "hold"            // freeze the culprit's mail at the door
	ActionDiscard        = "discard"         // discard the culprit's mail at the door
	ActionPanelHold      = "panel-hold"      // have the panel keep outgoing mail in the queue
	ActionSuspendAccount = "suspend-account" // have the panel suspend the account
	ActionBlockLogin     = "block-login"     // have the panel refuse the mailbox's login
	ActionRenamePath     = "rename-path"     // the directory that sent
	ActionRenameScript   = "rename-script"   // the script's file that the evidence names
	ActionRunScript      = "run-script"      // the operator's own
	ActionBlockIP        = "block-ip"        // at the firewall
	ActionBlockDirect    = "block-direct"    // at the firewall, what the account's processes send past Exim
)

// allActions in the order in which they are listed and, where a trigger asks for several,
// make sense: the mildest first.
var allActions = []string{
	ActionReport, ActionHold, ActionDiscard, ActionPanelHold, ActionBlockLogin, ActionRenameScript,
	ActionRenamePath, ActionBlockIP, ActionBlockDirect, ActionSuspendAccount, ActionRunScript,
}

// AllActions lists every action there is.
func AllActions() []string { return slices.Clone(allActions) }

// ExecutorActions lists those that need root, and are the executor's.
func ExecutorActions() []string { return slices.Clone(allActions[3:]) }

// PanelActions lists those that a hosting panel does.
func PanelActions() []string {
	return []string{ActionPanelHold, ActionBlockLogin, ActionSuspendAccount}
}

// Timed reports whether an action stands for a time and can be taken back.
func Timed(action string) bool { return action != ActionReport && action != ActionRunScript }

// ValidScriptName reports whether s may be the name of a script in executor.toml.
func ValidScriptName(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	})
}

// apply wants actions that make sense for what a trigger watches.
func (c *checker) apply(list []Action, w Watch) {
	for _, a := range list {
		why, ok := Applies(a.Name, w)
		c.want(ok, "actions", a.Name, why)
	}
}

// maxFrom bounds the steps of a ladder.
const maxFrom = 100

func (c *checker) actions(list []Action) {
	seen := make(map[string]bool, len(list))
	for _, a := range list {
		c.want(slices.Contains(allActions, a.Name), "actions", a.Name, oneOf(allActions)+didYouMean(a.Name, allActions))
		if !slices.Contains(allActions, a.Name) {
			continue
		}
		c.want(!seen[a.Name+" "+a.Script], "actions", a.Name, "each action once")
		c.want(a.For >= 0 && a.For <= maxHoldFor && (a.For == 0 || Timed(a.Name)), "actions", a.For,
			fmt.Sprintf("%s has no length, and no other lasts longer than 366d", a.Name))
		c.want(a.From >= 0 && a.From <= maxFrom, "actions", a.From, fmt.Sprintf("%s from the 1st to the %dth time", a.Name, maxFrom))
		c.want((a.Script != "") == (a.Name == ActionRunScript), "actions", a.Name, "run-script names a script of executor.toml, and nothing else does")
		c.want(a.Script == "" || ValidScriptName(a.Script), "actions", a.Script, "a script's name is 1 to 64 letters, digits, - and _")
		c.want(a.Name != ActionDiscard || a.ConfirmLoss, "actions", a.Name, "discard loses mail: it needs confirm_loss = true beside it")
		seen[a.Name+" "+a.Script] = true
	}
}
