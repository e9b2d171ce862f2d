package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	exportInterval = 2 * time.Second
	maxExport      = 64 << 20
	maxUserFile    = 64 << 10
	maxUserFiles   = 500_000
	plansName      = "userplans"
	contactsName   = "usercontacts"
)

// ExportOptions says what [ExportMaps] copies where.
type ExportOptions struct {
	Sources []string // files, each copied under its own last name; those that are missing are left out
	// Users is cPanel's folder of account files (KEY=value); of each the first good
	// address of CONTACTEMAIL goes as "user: address" into the copy "usercontacts", and
	// PLAN as "user: plan" into "userplans", unless Sources has a file of that name which
	// exists. "" = none.
	Users string
	Dir   string           // made if it is missing; must be root's alone
	GID   int              // group that may read the copies: osm
	Tick  <-chan time.Time // when to look for changes; nil = every 2 s
	Again <-chan struct{}  // when to look at once; it is taken from only when the look before is done
	Log   *slog.Logger
}

// CPanelMaps lists the files of cPanel that the panel package reads: most are
// root:mail 0640.
func CPanelMaps() []string {
	return []string{"/etc/userdomains", "/etc/trueuserdomains", "/etc/trueuserowners", "/etc/userplans",
		"/etc/recent_authed_mail_ips", "/etc/alwaysrelay", "/etc/virtual/domainowners"}
}

// ExportMaps copies the panel's maps that only root may read to where osm may read
// them: at the start, and again whenever one changes, until ctx ends. Each copy
// appears whole or not at all, and has its original's time.
func ExportMaps(ctx context.Context, o ExportOptions) error {
	dir, err := openExportDir(o.Dir, o.GID)
	if err != nil {
		return err
	}
	e := &exporter{opt: o, dir: dir, seen: map[string]fileStamp{}, reported: map[string]string{}}
	defer func() { _ = dir.Close() }() // a folder opened for reading
	tick := o.Tick
	if tick == nil {
		t := time.NewTicker(exportInterval)
		defer t.Stop()
		tick = t.C
	}
	for {
		e.run()
		select {
		case <-ctx.Done():
			return nil
		case <-tick:
		case <-o.Again:
		}
	}
}

// openExportDir opens the folder of the copies and keeps it: what is done in it goes
// through this handle, so nobody can put another folder in its place meanwhile.
func openExportDir(path string, gid int) (*os.File, error) {
	if err := os.Mkdir(path, 0o750); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("make the folder of the maps: %w", err)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the folder of the maps %s: %w", path, err)
	}
	dir := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && (st.Uid != uint32(os.Geteuid()) || st.Mode&0o022 != 0) {
		err = fmt.Errorf("others may write there (owner %d, mode %o)", st.Uid, st.Mode&0o7777)
	}
	if err == nil {
		err = errors.Join(unix.Fchown(fd, -1, gid), unix.Fchmod(fd, 0o750))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("use the folder of the maps %s: %w", path, err), dir.Close())
	}
	return dir, nil
}

// fileStamp tells whether a file has changed.
type fileStamp struct {
	dev, ino uint64
	size     int64
	modified unix.Timespec
}

func stampOf(st *unix.Stat_t) fileStamp {
	return fileStamp{dev: st.Dev, ino: st.Ino, size: st.Size, modified: st.Mtim}
}

type exporter struct {
	opt      ExportOptions
	dir      *os.File
	seen     map[string]fileStamp // by source
	plans    bool                 // the packages were collected when Users was read last
	reported map[string]string    // by source: what was wrong
}

func (e *exporter) run() {
	plans := true
	for _, source := range e.opt.Sources {
		err := e.export(source)
		e.report(source, err)
		if filepath.Base(source) == plansName && !errors.Is(err, os.ErrNotExist) {
			plans = false
		}
	}
	if e.opt.Users != "" {
		e.report(e.opt.Users, e.exportUsers(plans))
	}
}

// report says once what is wrong with a source. A missing one is no mistake.
func (e *exporter) report(source string, err error) {
	text := ""
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		text = err.Error()
	}
	if text != e.reported[source] && text != "" {
		e.opt.Log.Warn("map not exported", "path", source, "err", err)
	}
	e.reported[source] = text
}

// export copies one file if it has changed.
func (e *exporter) export(source string) error {
	fd, err := unix.Open(source, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", source, err)
	}
	f := os.NewFile(uintptr(fd), source)
	defer func() { _ = f.Close() }() // opened for reading
	var before, after unix.Stat_t
	if err := unix.Fstat(fd, &before); err != nil {
		return fmt.Errorf("export %s: %w", source, err)
	}
	if before.Mode&unix.S_IFMT != unix.S_IFREG || before.Size > maxExport {
		return fmt.Errorf("export %s: no ordinary file of at most %d bytes", source, maxExport)
	}
	if old, known := e.seen[source]; known && old == stampOf(&before) {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(f, maxExport+1))
	if err != nil {
		return fmt.Errorf("export %s: %w", source, err)
	}
	if err := unix.Fstat(fd, &after); err != nil {
		return fmt.Errorf("export %s: %w", source, err)
	}
	if stampOf(&before) != stampOf(&after) || int64(len(b)) != after.Size {
		return nil // being written to: at the next look
	}
	if err := e.replace(filepath.Base(source), b, after.Mtim); err != nil {
		return fmt.Errorf("export %s: %w", source, err)
	}
	e.seen[source] = stampOf(&after)
	return nil
}

// replace puts a file with this content in the place of name: written beside it,
// brought to disk, then renamed.
func (e *exporter) replace(name string, b []byte, modified unix.Timespec) error {
	dir, temp := int(e.dir.Fd()), "."+name+".new"
	if err := unix.Unlinkat(dir, temp, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove a left-over %s: %w", temp, err)
	}
	fd, err := unix.Openat(dir, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("make %s: %w", temp, err)
	}
	f := os.NewFile(uintptr(fd), temp)
	_, err = f.Write(b)
	if err == nil {
		err = errors.Join(unix.Fchown(fd, -1, e.opt.GID), unix.Fchmod(fd, 0o640),
			futimes(fd, modified), f.Sync())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", temp, err), unix.Unlinkat(dir, temp, 0))
	}
	if err := unix.Renameat(dir, temp, dir, name); err != nil {
		return fmt.Errorf("rename %s: %w", temp, err)
	}
	return nil
}

func futimes(fd int, t unix.Timespec) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), []unix.Timespec{t, t}, 0)
}
