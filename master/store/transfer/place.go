package transfer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"holdfast/master/store"
	"holdfast/master/store/postgres"
	"holdfast/master/store/sqlite"
)

// Place says where a store is: sqlite:DIR, with a master's data directory, or the URL
// of a PostgreSQL database.
type Place struct {
	dir string // absolute
	url string
	// name is what people are told: without a password.
	name string
}

// ParsePlace reads a place. The error shows no password.
func ParsePlace(text string) (Place, error) {
	scheme, rest, ok := strings.Cut(text, ":")
	switch {
	case ok && scheme == "sqlite" && rest != "" && !strings.HasPrefix(rest, "//"):
		dir, err := filepath.Abs(rest)
		if err != nil {
			return Place{}, err
		}
		if filepath.Base(dir) == sqlite.FileName {
			dir = filepath.Dir(dir)
		}
		return Place{dir: dir, name: "sqlite:" + dir}, nil
	case ok && (scheme == "postgres" || scheme == "postgresql"):
		name, err := postgres.Name(text)
		return Place{url: text, name: name}, err
	case ok && strings.HasPrefix(rest, "//"):
		return Place{}, fmt.Errorf("%w, got a URL of the unknown scheme %q", ErrPlace, scheme)
	}
	if text == "" {
		return Place{}, ErrPlace
	}
	return Place{}, fmt.Errorf("%w, got %q", ErrPlace, text)
}

// String is the place without a password.
func (p Place) String() string { return p.name }

// same reports that two places are one directory. Databases of a server are compared
// once there is a connection.
func (p Place) same(q Place) bool {
	if p.dir == "" || q.dir == "" {
		return false
	}
	real := func(dir string) string {
		if r, err := filepath.EvalSymlinks(dir); err == nil {
			return r
		}
		return dir
	}
	return real(p.dir) == real(q.dir)
}

// open opens a place. make: make the database file, if there is none.
func (p Place) open(ctx context.Context, make bool) (database, error) {
	if p.url != "" {
		return openPostgres(ctx, p.url)
	}
	b, err := sqlite.OpenBare(ctx, sqlite.Config{Path: filepath.Join(p.dir, sqlite.FileName)}, make)
	switch {
	case err == nil:
		return &liteDB{Bare: b}, nil
	case errors.Is(err, fs.ErrNotExist) && !make:
		return nil, fmt.Errorf("%s: %w; name the data directory of a master, where %s is", p, ErrNoStore, sqlite.FileName)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s: %w; run this as the user that runs the master", p, err)
	case errors.Is(err, store.ErrInUse) && make:
		return nil, fmt.Errorf("%s: %w", p, err)
	}
	return nil, full(p.name, fmt.Errorf("%s: %w", p, err))
}
