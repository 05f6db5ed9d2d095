package sqlite

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"
)

// Config says what to open, and how. Zero fields take their defaults.
type Config struct {
	// Path of the database file. Its directory is made if missing. Required.
	Path string
	// Logger for what an operator should know. Default: nothing is logged.
	Logger *slog.Logger
	// NoSync leaves out all syncs. Only for simulations and tests that never
	// cut the power: a kill of the process still loses nothing.
	NoSync bool
	// Readers is the number of read connections. Default 4. More serve more
	// slow readers at once, for about 2 MiB of cache each.
	Readers int
	// CheckpointPages is the size of the write-ahead log, in pages of 4 KiB,
	// at which a commit moves it into the database. Default 4096 (16 MiB).
	// Larger: fewer long commits, slower start after a crash.
	CheckpointPages int
	// PinnedBytes is the size of the write-ahead log beyond which people are told
	// that some reader keeps it from being emptied. Default 256 MiB.
	PinnedBytes int64
	// Now is the clock for what Open itself writes. Default time.Now.
	Now func() time.Time
}

// check validates c and fills in the defaults.
func (c Config) check() (Config, error) {
	if c.Path == "" {
		return c, errors.New("sqlite: Config.Path is required")
	}
	path, err := filepath.Abs(c.Path)
	if err != nil {
		return c, fmt.Errorf("sqlite: path %q: %w", c.Path, err)
	}
	c.Path = path
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Readers <= 0 {
		c.Readers = 4
	}
	if c.CheckpointPages <= 0 {
		c.CheckpointPages = 4096
	}
	if c.PinnedBytes <= 0 {
		c.PinnedBytes = 256 << 20
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c, nil
}
