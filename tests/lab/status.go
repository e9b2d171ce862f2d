package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Status is what the tests look at of "osmctl status --json".
type Status struct {
	Version string `json:"version"`
	Config  struct {
		Error string `json:"error"`
	} `json:"config"`
	Exim      Part    `json:"exim"`
	Store     Part    `json:"store"`
	Inspect   Part    `json:"inspect"`
	Executor  Part    `json:"executor"`
	Accounts  Part    `json:"accounts"`
	Checks    uint64  `json:"checks"`
	Shed      uint64  `json:"shed"`
	Unchecked uint64  `json:"unchecked"`
	Alarms    []Alarm `json:"alarms"`
}

// Part is how one part of the daemon is doing.
type Part struct {
	OK   bool   `json:"ok"`
	Text string `json:"text"`
}

// Alarm is something that a person must act on.
type Alarm struct {
	At   time.Time `json:"at"`
	Name string    `json:"name"`
	Text string    `json:"text"`
}

// Alarm returns the alarm of that name, nil if it does not stand.
func (s *Status) Alarm(name string) *Alarm {
	i := slices.IndexFunc(s.Alarms, func(a Alarm) bool { return a.Name == name })
	if i < 0 {
		return nil
	}
	return &s.Alarms[i]
}

// Status asks the daemon how it is. That osmctl ends with status 1 because of an alarm is
// no error here.
func (d *Daemon) Status() (Status, error) {
	var s Status
	err := d.Document(&s, "status")
	return s, err
}

// Check is one line of "osmctl doctor".
type Check struct {
	Name    string `json:"name"`
	OK      bool   `json:"ok"`
	Skipped bool   `json:"skipped"`
	Text    string `json:"text"`
	Hint    string `json:"hint"`
}

// Doctor looks at the installation from outside; it works without the daemon too.
func (d *Daemon) Doctor() ([]Check, error) {
	var l struct{ Items []Check }
	err := d.Document(&l, "doctor", "-config", d.Config)
	return l.Items, err
}

// Document decodes what a command printed, even if it ended with status 1 because of
// what it found.
func (d *Daemon) Document(into any, args ...string) error {
	out, err := d.Osmctl(append(args, "--json")...)
	var failed *CtlError
	if errors.As(err, &failed) && failed.Status() == 1 && len(out) > 0 {
		err = nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("osmctl %v printed no JSON: %w: %.300s", args, err, out)
	}
	return nil
}
