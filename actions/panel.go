package actions

// PanelOptions says how the hosting panel is asked.
type PanelOptions struct {
	Kind    string // "auto", "cpanel", "commands" or "none"
	WHMAPI1 string // the program
	UAPI    string // the program
	Doveadm string // the program; "" = none
	// Commands are the operator's own, by action, where the panel is "commands".
	Commands map[string]PanelCommand
}

// PanelCommand is how an action is done, undone and looked at where no panel is known. In
// each argument {account} and {mailbox} stand for those of the request; each stays one
// argument, and no shell sees it.
type PanelCommand struct {
	Do, Undo []string
	// Check exits with 0 when it is in force, and with 1 when it is not.
	Check []string
}
