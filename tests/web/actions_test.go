package web

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Somebody set what follows when an account's directory sends too much; it happened, and an
// operator takes it back.
func TestErrandUndoAnAction(t *testing.T) {
	const account = "acted"
	b := byLink(t)
	b.menu("Limits")
	b.open("limits/edit?level=account&name=" + account + "&trigger=directory-hour")
	b.fill("Maximum", "2")
	b.choose("What follows", "a list of your own")
	b.fill("A list of your own", "report, rename-path=1h")
	b.shoot("errand-action-limit")
	b.axe("a list of actions")
	b.follow("Preview")
	b.sees("rename-path for 1 hour")
	b.follow("Save")
	for range 3 {
		sendmail(t, account, "gallery", "Cheap watches", 1)
	}
	dir := filepath.Join(www(account), "gallery")
	eventually(t, "the directory to be out of the way", func() error {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			return errors.New("it is there")
		}
		return nil
	})
	b.menu("Actions")
	b.sees(account+" "+dir, "In force")
	b.axe("the actions")
	b.shoot("errand-actions")
	b.follow("event ", dir)
	b.sees("What followed", "rename-path", "In force")
	b.axe("an event with actions")
	b.shoot("errand-action-event")
	b.follow("Undo rename-path")
	b.sees("Undo rename-path?", "osm-blocked-")
	b.axe("the question")
	b.follow("Undo it")
	b.sees("Undone")
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("after the undo: %v", err)
	}
}
