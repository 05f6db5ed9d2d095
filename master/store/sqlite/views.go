package sqlite

import (
	"database/sql"
	"fmt"
)

// OpenViews opens the store at a path read-only, whether or not a master has it
// open, for reading the public views. It takes no lock and changes nothing.
func OpenViews(path string) (*sql.DB, error) {
	cfg, err := Config{Path: path}.check()
	if err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", dsn(cfg.Path, "ro", "query_only(1)"))
	if err != nil {
		return nil, fmt.Errorf("open views of %s: %w", path, classify(err))
	}
	return db, nil
}
