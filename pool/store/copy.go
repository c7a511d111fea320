package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
)

// Copy writes the database of a state directory, as of one moment, into a new file. A
// daemon may use it meanwhile: it is read by one transaction beside it, and waits for
// nobody (SQLite, VACUUM INTO). Nothing is left in the copy of what was deleted before.
func Copy(ctx context.Context, dir, to string) (err error) {
	dsn := url.URL{Scheme: "file", OmitHost: true, Path: filepath.Join(dir, FileName), RawQuery: url.Values{
		"_pragma": {"busy_timeout(5000)"}, "mode": {"rw"}, // never made where there is none
	}.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.ExecContext(ctx, `VACUUM INTO ?`, to); err != nil {
		return fmt.Errorf("copy the database: %w", (&DB{path: filepath.Join(dir, FileName)}).explain(err))
	}
	return nil
}
