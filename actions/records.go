package actions

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// records are the changes that are in force, a file each in a folder that only root may
// open. They are the executor's own: what osmd and its database say is not believed.
type records struct{ dir string }

// maxRecords bounds the folder. What is not undone by then waits for an operator.
const maxRecords = 10_000

const maxRecordSize = 64 << 10

var reRecord = regexp.MustCompile(`^[a-z2-7]{12}$`)

// newRecordID is 60 random bits in letters that any panel and firewall lets stand.
func newRecordID() string { return strings.ToLower(rand.Text()[:12]) }

func (s records) path(id string) string { return filepath.Join(s.dir, id+".json") }

// begin writes down that c is about to be done.
func (s records) begin(c *Change, now time.Time) (*Record, error) {
	if err := s.folder(); err != nil {
		return nil, err
	}
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	if len(names) >= maxRecords {
		return nil, refusal{fmt.Sprintf("%d changes are in force already", len(names)), "undo those that are not needed: osmctl actions"}
	}
	r := &Record{ID: newRecordID(), Change: *c, At: now.UTC().Truncate(time.Millisecond), State: map[string]string{}}
	return r, s.put(r)
}

// folder makes the folder, or refuses one that others can reach.
func (s records) folder() error {
	if s.dir == "" {
		return refusal{"there is no folder for records", "set state_dir in executor.toml"}
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("make the folder of records: %w", err)
	}
	st, err := os.Lstat(s.dir)
	if err != nil {
		return fmt.Errorf("look at the folder of records: %w", err)
	}
	if !st.IsDir() || st.Mode().Perm()&0o077 != 0 {
		return refusal{fmt.Sprintf("the folder of records %q is open to others than root", s.dir), "make it root's with mode 0700"}
	}
	return nil
}

// put writes a record whole or not at all.
func (s records) put(r *Record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	if len(b) > maxRecordSize {
		return fmt.Errorf("record %s has %d bytes, at most %d", r.ID, len(b), maxRecordSize)
	}
	f, err := os.CreateTemp(s.dir, ".new-*")
	if err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), s.path(r.ID))
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write record %s: %w", r.ID, err)
	}
	return nil
}

// get reads one record. One that is not there has been undone.
func (s records) get(id string) (*Record, error) {
	if !reRecord.MatchString(id) {
		return nil, refusal{why: fmt.Sprintf("%.40q is no record", id)}
	}
	b, err := os.ReadFile(s.path(id))
	if errors.Is(err, os.ErrNotExist) {
		return nil, leftAlone{"there is no such change in force: it has been undone"}
	}
	if err != nil {
		return nil, fmt.Errorf("read record: %w", err)
	}
	r := &Record{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("read record %s: %w", id, err)
	}
	if r.ID != id {
		return nil, fmt.Errorf("record %s calls itself %.40q", id, r.ID)
	}
	return r, nil
}

func (s records) remove(id string) error {
	if err := os.Remove(s.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove record: %w", err)
	}
	return nil
}

func (s records) names() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list records: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), ".json"); ok && reRecord.MatchString(id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// list returns every record, the oldest first. One that cannot be read is an error: its
// change could not be undone.
func (s records) list() ([]Record, error) {
	ids, err := s.names()
	if err != nil {
		return nil, err
	}
	var out []Record
	for _, id := range ids {
		r, err := s.get(id)
		var gone leftAlone
		switch {
		case errors.As(err, &gone): // undone just now
		case err != nil:
			return nil, err
		default:
			out = append(out, *r)
		}
	}
	slices.SortFunc(out, func(a, b Record) int { return a.At.Compare(b.At) })
	return out, nil
}

// same finds the newest record of the same change, nil if there is none.
func (s records) same(c *Change) (*Record, error) {
	all, err := s.list()
	if err != nil {
		return nil, err
	}
	for i := range slices.Backward(all) {
		r := &all[i]
		if r.Action == c.Action && r.Account == c.Account && r.Mailbox == c.Mailbox && r.Path == c.Path && r.IP == c.IP {
			return r, nil
		}
	}
	return nil, nil
}
