package actions

import (
	"context"
	"encoding/json"
	"strings"
)

// suspendAccount has cPanel suspend a whole account: its sites, logins and mail. The reason
// that cPanel keeps is how ours are told from everybody else's.
type suspendAccount struct{ panel }

func (d suspendAccount) look(ctx context.Context, r *Record) (standing, error) {
	if gone, err := d.vanished(r); gone != "" || err != nil {
		return standing{gone: gone}, err
	}
	reason, found, err := d.suspendedFor(r.Account)
	if err != nil {
		return standing{}, err
	}
	if found {
		return standing{in: Yes, ours: yesIf(strings.Contains(reason, r.ID)), why: reason}, nil
	}
	// That there is no such file is nothing that cPanel promises.
	a, err := d.summary(ctx, r.Account)
	if err != nil {
		return standing{}, err
	}
	why := words(a["suspendreason"])
	in := truth(a["suspended"])
	if in == Unknown && d.exists("/var/cpanel/suspended") { // then the file that is not there counts
		in = No
	}
	return standing{in: in, ours: yesIf(strings.Contains(why, r.ID)), why: why}, nil
}

// summary is what cPanel says of an account.
func (p panel) summary(ctx context.Context, account string) (map[string]json.RawMessage, error) {
	r, err := p.whm(ctx, p.x.o.CommandLimit, "accountsummary", pair{"user", account})
	if err != nil {
		return nil, err
	}
	var data struct {
		Acct []map[string]json.RawMessage `json:"acct"`
	}
	if json.Unmarshal(r.data, &data) == nil && len(data.Acct) == 1 {
		return data.Acct[0], nil
	}
	return map[string]json.RawMessage{}, nil
}

func (d suspendAccount) prepare(*Record) {}

func (d suspendAccount) do(ctx context.Context, r *Record) error {
	_, err := d.whm(ctx, d.x.o.ChangeLimit, "suspendacct", pair{"user", r.Account}, pair{"reason", r.reason()})
	return err
}

func (d suspendAccount) undo(ctx context.Context, r *Record) error {
	_, err := d.whm(ctx, d.x.o.ChangeLimit, "unsuspendacct", pair{"user", r.Account})
	return err
}

func (d suspendAccount) after(context.Context, *Record) string { return "" }
