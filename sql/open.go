package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/mattn/go-sqlite3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// ErrNewer says that the database was written by a newer version of this program.
var ErrNewer = errors.New("the database is newer than this program")

// connector opens connections with one DSN. It spares a globally registered driver.
type connector struct {
	dsn    string
	driver *sqlite3.SQLiteDriver
}

// Connect opens one connection.
func (c *connector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.dsn) }

// Driver is the driver behind it.
func (c *connector) Driver() driver.Driver { return c.driver }

// dsn writes the name of a database file with its pragmas. The path is quoted: a "?" in
// it begins no parameters.
func dsn(path string, params ...string) string {
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: strings.Join(params, "&")}).String()
}

// Every connection is one goroutine's at a time, database/sql sees to that: SQLite need not
// lock it as well (_mutex=no).

// openWritable opens the writer's one connection. The write-ahead log is checkpointed by
// the writer when it has time, not by whichever commit makes it long.
func openWritable(path string) *sql.DB {
	db := sql.OpenDB(&connector{
		dsn: dsn(path, "_journal_mode=WAL", "_synchronous=NORMAL", "_busy_timeout=250", "_txlock=immediate", "_cache_size=-16384", "_mutex=no"),
		driver: &sqlite3.SQLiteDriver{ConnectHook: func(c *sqlite3.SQLiteConn) error {
			_, err := c.Exec("PRAGMA wal_autocheckpoint = 0", nil)
			return err
		}},
	})
	db.SetMaxOpenConns(1)
	return db
}

// openReadOnly opens connections that cannot write. With immutable no lock is taken and
// no log is read: for a database on a disk that cannot be written at all.
func openReadOnly(path string, immutable bool) *sql.DB {
	params := []string{"mode=ro", "_query_only=1", "_busy_timeout=1000", "_cache_size=-4096", "_stmt_cache_size=32", "_mutex=no"}
	if immutable {
		params = append(params, "immutable=1")
	}
	db := sql.OpenDB(&connector{dsn: dsn(path, params...), driver: readDriver()})
	db.SetMaxOpenConns(maxReaders)
	db.SetMaxIdleConns(maxReaders)
	return db
}

// migrate brings the schema to the newest version, each step in one transaction.
func migrate(ctx context.Context, c *sql.Conn) error {
	var version int
	if err := c.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return fmt.Errorf("read the version of the database: %w", err)
	}
	files, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return fmt.Errorf("list migrations: %w", err)
	}
	if version > len(files) {
		return fmt.Errorf("%w: it has version %d, this program knows up to %d", ErrNewer, version, len(files))
	}
	for i, file := range files {
		n, err := strconv.Atoi(strings.SplitN(filepath.Base(file), "_", 2)[0])
		if err != nil || n != i+1 {
			return fmt.Errorf("migration %q is not number %d", file, i+1)
		}
		if n <= version {
			continue
		}
		text, err := migrations.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read migration %q: %w", file, err)
		}
		if err := step(ctx, c, string(text), n); err != nil {
			return fmt.Errorf("migration %q: %w", file, err)
		}
	}
	return nil
}

// step runs one migration.
func step(ctx context.Context, c *sql.Conn, text string, version int) error {
	tx, err := c.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, text); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "PRAGMA user_version = "+strconv.Itoa(version)); err != nil {
		return err
	}
	return tx.Commit()
}

// smallTables are checked whole at every start; they hold what cannot be made again.
var smallTables = []string{"meta", "holds", "overrides", "exemptions", "settings", "held", "events", "accounts", "name_epochs", "boots", "minutes"}

// check looks for damage where it is quick: the small tables whole and both ends of the
// decisions. With full it reads everything. Damage that it does not meet is found when
// somebody reads it.
func check(ctx context.Context, c *sql.Conn, full bool) error {
	queries := []string{"PRAGMA quick_check(1)"}
	if !full {
		queries = queries[:0]
		for _, t := range smallTables {
			queries = append(queries, "PRAGMA quick_check("+t+")")
		}
	}
	for _, q := range queries {
		var result string
		if err := c.QueryRowContext(ctx, q).Scan(&result); err != nil {
			return fmt.Errorf("check the database: %w", err)
		}
		if result != "ok" {
			return fmt.Errorf("check the database: %w: %.200s", errCorrupt, result)
		}
	}
	for _, order := range []string{"ASC", "DESC"} {
		rows, err := c.QueryContext(ctx, "SELECT * FROM decisions ORDER BY seq "+order+" LIMIT 8")
		if err != nil {
			return fmt.Errorf("check the decisions: %w", err)
		}
		for rows.Next() {
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return fmt.Errorf("check the decisions: %w", err)
		}
	}
	return nil
}

// errCorrupt says that the database is damaged.
var errCorrupt = errors.New("the database is damaged")

// isCorrupt reports whether an error means a damaged database.
func isCorrupt(err error) bool {
	var e sqlite3.Error
	return errors.Is(err, errCorrupt) || errors.As(err, &e) && (e.Code == sqlite3.ErrCorrupt || e.Code == sqlite3.ErrNotADB)
}

// isOfRow reports whether an error is about what was to be stored, and so would come
// again for ever.
func isOfRow(err error) bool {
	var e sqlite3.Error
	if !errors.As(err, &e) {
		return false
	}
	return e.Code == sqlite3.ErrConstraint || e.Code == sqlite3.ErrMismatch || e.Code == sqlite3.ErrTooBig || e.Code == sqlite3.ErrRange
}

// databaseFiles are the endings of a database's files: its log, its shared memory, and
// last the database itself, without which the rest means nothing.
var databaseFiles = []string{"-wal", "-shm", ""}

// moveAside renames a damaged database with its log and shared memory, as far as they are
// still there, and returns its new name.
func moveAside(path, stamp string) (string, error) {
	aside := path + asideSuffix + stamp
	if _, err := os.Lstat(path); err == nil {
		aside = path + asideSuffix + freeStamp(path, stamp)
	}
	for _, suffix := range databaseFiles {
		if err := os.Rename(path+suffix, aside+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("set the damaged database aside: %w", err)
		}
	}
	return aside, nil
}

// isOfDatabase reports whether an error is the database's fault rather than the request's.
func isOfDatabase(err error) bool {
	var e sqlite3.Error
	return isCorrupt(err) || errors.As(err, &e) && !isOfRow(err) && e.Code != sqlite3.ErrError && e.Code != sqlite3.ErrInterrupt
}

// readDriver makes connections that need no more than their DSN says.
func readDriver() *sqlite3.SQLiteDriver { return new(sqlite3.SQLiteDriver) }
