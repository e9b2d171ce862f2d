package policy

// Asks tells what a trigger asks for when the sender of id goes over it: its actions, and
// what becomes of mail that it froze. The sender's place in the panel must be filled in
// ([AccountMap.Place]), unless he is only claimed. ok is false where the trigger does not
// enforce for him.
func (e *Engine) Asks(now Moment, name string, id Identity) (actions []Action, release Release, ok bool) {
	rs := e.rules.Load()
	t := rs.trigger(name)
	if t == nil {
		return nil, Manual, false
	}
	over := rs.overrides.of(owner{id.Reseller, id.Package, id.Account, id.Mailbox})
	l := over.limit(t, now.Wall)
	return l.actions, l.release, l.mode == Enforce
}
