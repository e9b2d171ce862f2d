package whm

import (
	"cmp"
	"html/template"
	"net/http"
	"strings"
	"time"

	"osm/internal/control"
)

// actionsBody is what was done because somebody went over a limit.
type actionsBody struct {
	Account, Name, Since string
	Standing             bool
	List                 control.List[control.Action]
	Names                []string // to choose from
}

// actionsPage lists what followed events, the newest first.
func (c *call) actionsPage() error {
	b := &actionsBody{Account: c.query("account"), Name: c.query("name"), Standing: c.query("standing") == "1", Names: control.ActionNames()}
	var since time.Time
	since, b.Since = c.since("7d")
	if b.Standing { // however old
		since = time.Time{}
	}
	var err error
	b.List, err = c.p.service.Actions(c.Context(), c.actor, control.ActionFilter{Since: since, Account: b.Account, Name: b.Name, Standing: b.Standing}, c.page())
	if err != nil {
		return err
	}
	return c.show("actions", "actions", "Actions", b)
}

// undoActionForm asks whether an action is to be taken back.
func (c *call) undoActionForm() error {
	a, err := c.action()
	if err != nil {
		return err
	}
	return c.show("actionundo", "actions", "Undo "+a.Name, &undoBody{*a, ownPage(cmp.Or(c.query("back"), c.form("back")), "actions")})
}

// undoBody is an action that is to be taken back.
type undoBody struct {
	Action control.Action
	Back   string
}

func (c *call) action() (*control.Action, error) {
	id, err := c.idOf("id")
	if err != nil {
		return nil, err
	}
	list, err := c.p.service.Actions(c.Context(), c.actor, control.ActionFilter{ID: id}, control.Page{Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(list.Items) == 0 {
		return nil, refusal(http.StatusNotFound, "", "there is no such action")
	}
	return &list.Items[0], nil
}

// undoAction takes an action back.
func (c *call) undoAction() error {
	id, err := c.idOf("id")
	if err != nil {
		return err
	}
	a, err := c.p.service.UndoAction(c.Context(), c.actor, id, c.form("reason"))
	if err != nil {
		if err := c.refused("undo", err); err != nil {
			return err
		}
		return c.undoActionForm()
	}
	c.say("Undone: "+a.Name+" "+shown(a.Target)+": "+shown(a.Outcome)+".", nil)
	return c.done(c.back("actions"))
}

// actionBadge tells what became of an action.
func actionBadge(a control.Action) template.HTML {
	switch {
	case a.State == "done" && a.Record != "" && a.UndoneAt.IsZero():
		return word{"In force", "shield", "enforce"}.badge()
	case a.State == "done":
		return word{"Done", "check", "passed"}.badge()
	case a.State == "waiting":
		return word{"Waits for its turn", "clock", "observe"}.badge()
	case a.State == "undone":
		return word{"Undone", "undo", "plain"}.badge()
	case a.State == "left out":
		return word{"Left out", "dot", "plain"}.badge()
	}
	return word{upperFirst(shown(a.State)), "cross", "denied"}.badge()
}

// MayUndo reports whether whoever is logged in may take an action back.
func (v *view) MayUndo(a control.Action) bool {
	return strings.HasPrefix(a.Inverse, "osmctl undo ") && (v.Operator() || a.Name == "hold" || a.Name == "discard")
}

// actionList tells what each action does, for those who choose.
func actionList() [][2]string {
	return [][2]string{
		{"report", "people are told: by mail, webhook or log, as the settings say"},
		{"hold", "mail of the mailbox, directory, Subject or account waits in the queue"},
		{"panel-hold", "the panel keeps outgoing mail of the mailbox or account in the queue"},
		{"block-login", "the mailbox cannot log in any more; for login triggers"},
		{"rename-script", "the script's file gets a name that cannot be run, where evidence names it"},
		{"rename-path", "the directory gets a name that cannot be reached; for directory triggers"},
		{"block-ip", "the address may not send mail to this server any more"},
		{"block-direct", "processes of the account reach no mail server but this host's own"},
		{"suspend-account", "the panel suspends the whole account"},
		{"run-script", "a program of yours gets the report: run-script=NAME, as executor.toml has it"},
		{"discard", "mail is thrown away for good: write discard=1h confirm-loss"},
	}
}
