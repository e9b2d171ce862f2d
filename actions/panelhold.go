package actions

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// panelHold has cPanel keep the outgoing mail of an account or a mailbox in Exim's queue.
// cPanel keeps no reason for it: what stood before us stays.
type panelHold struct{ panel }

func (d panelHold) look(ctx context.Context, r *Record) (standing, error) {
	if gone, err := d.vanished(r); gone != "" || err != nil {
		return standing{gone: gone}, err
	}
	held, err := d.held(r.Target())
	if err != nil {
		return standing{}, err
	}
	if held {
		return standing{in: Yes, ours: Unknown, why: "in /etc/outgoing_mail_hold_users"}, nil
	}
	// The file is known from others, not from cPanel's documentation: the word of its API
	// counts where that says more.
	said := json.RawMessage(nil)
	if r.Mailbox == "" {
		a, err := d.summary(ctx, r.Account)
		if err != nil {
			return standing{}, err
		}
		said = a["outgoing_mail_hold"]
	} else {
		local, domain, _ := strings.Cut(r.Mailbox, "@")
		m, err := d.pop(ctx, r, "list_pops_with_disk", pair{"email", local}, pair{"domain", domain}, pair{"get_restrictions", "1"})
		if err != nil {
			return standing{}, err
		}
		if m == nil {
			return standing{gone: "there is no mailbox " + r.Mailbox + " (any more)"}, nil
		}
		said = m["hold_outgoing"]
	}
	if truth(said) == Yes {
		return standing{in: Yes, ours: Unknown, why: "held by what cPanel says"}, nil
	}
	return standing{in: No, ours: No}, nil
}

// pop is what cPanel says of one mailbox, nil if it does not know it. If the list that was
// asked for does not have it, the whole list is read: how an argument is understood must
// not make a mailbox vanish.
func (p panel) pop(ctx context.Context, r *Record, function string, args ...pair) (map[string]json.RawMessage, error) {
	for _, args := range [][]pair{args, nil} {
		said, err := p.uapi(ctx, p.x.o.CommandLimit, r.Account, function, args...)
		if err != nil {
			return nil, err
		}
		var list []map[string]json.RawMessage
		if json.Unmarshal(said.data, &list) != nil {
			return nil, fmt.Errorf("%s %s: no list of mailboxes in the answer", p.x.o.Panel.UAPI, function)
		}
		for _, m := range list {
			var email string
			if json.Unmarshal(m["email"], &email) == nil && strings.EqualFold(email, r.Mailbox) {
				return m, nil
			}
		}
	}
	return nil, nil
}

func (d panelHold) prepare(*Record) {}

func (d panelHold) do(ctx context.Context, r *Record) error {
	return d.ask(ctx, r, "hold_outgoing_email", "hold_outgoing")
}

func (d panelHold) undo(ctx context.Context, r *Record) error {
	return d.ask(ctx, r, "release_outgoing_email", "release_outgoing")
}

func (d panelHold) ask(ctx context.Context, r *Record, ofAccount, ofMailbox string) error {
	var err error
	if r.Mailbox == "" {
		_, err = d.whm(ctx, d.x.o.ChangeLimit, ofAccount, pair{"user", r.Account})
	} else {
		_, err = d.uapi(ctx, d.x.o.ChangeLimit, r.Account, ofMailbox, pair{"email", r.Mailbox})
	}
	return err
}

func (d panelHold) after(context.Context, *Record) string { return "" }
