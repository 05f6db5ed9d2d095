package spool

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	defaultSegment = 1 << 20
	minSegment     = 4 << 10
	// minQuota is the least quota that can be kept: a few segments with a few
	// records each.
	minQuota = 16 << 10
	// sealAbove is the file size from which on Seal is worth a file of its own:
	// below it the log occupies one disk block either way.
	sealAbove = 4 << 10
)

// Config configures a Writer.
type Config struct {
	// Dir of the log; made if it is not there. Required.
	Dir string
	// Quota bounds Usage, in bytes; 0: no bound; at least 16 KiB, a smaller one
	// counts as that. At the quota Write waits for nothing: it returns ErrFull.
	Quota int64
	// Usage returns the bytes that count against Quota. Default: those of Dir.
	// If it counts other logs too they should be sealed, or what is left of
	// them may fill the quota for good.
	Usage func() (int64, error)
	// MinFree is what the file system keeps free, in bytes; looked at once a
	// segment. 0: do not look.
	MinFree int64
	// SegmentBytes is the size at which a new segment begins. Default: 1 MiB,
	// less when the quota is small, so that ACKs can free something.
	SegmentBytes int64
	// NoSync leaves out every fsync. Only for simulations.
	NoSync bool
}

func (c Config) withDefaults() Config {
	if c.Quota > 0 {
		c.Quota = max(c.Quota, minQuota)
	}
	if c.SegmentBytes == 0 {
		c.SegmentBytes = defaultSegment
		if c.Quota > 0 {
			c.SegmentBytes = max(minSegment, min(c.SegmentBytes, c.Quota/4))
		}
	}
	c.SegmentBytes = max(c.SegmentBytes, headerSize+1)
	if c.Usage == nil {
		c.Usage = func() (int64, error) { return Usage(c.Dir) }
	}
	return c
}

// maxData is the most data one record holds: a record must fit a small quota.
func (c *Config) maxData() int {
	if c.Quota <= 0 {
		return MaxRecord
	}
	return int(min(MaxRecord, c.Quota/8))
}

// sealAbove is the size from which on a segment is sealed, in bytes of file.
func (c *Config) sealAbove() int64 {
	if c.Quota <= 0 {
		return sealAbove
	}
	return max(headerSize, min(sealAbove, c.Quota/4096))
}

// NewWriter begins an empty log. A log that exists already is an error: a step
// is started once, and so is its log.
func NewWriter(cfg Config) (*Writer, error) {
	cfg = cfg.withDefaults()
	err := os.Mkdir(cfg.Dir, 0o755)
	if os.IsNotExist(err) {
		err = os.MkdirAll(cfg.Dir, 0o755)
	}
	made := err == nil
	if err != nil && !os.IsExist(err) {
		return nil, fmt.Errorf("spool: %w", err)
	}
	list, err := segments(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	if len(list) > 0 {
		return nil, fmt.Errorf("spool %s: a log is here already: %w", cfg.Dir, fs.ErrExist)
	}
	w := &Writer{cfg: cfg, counted: -1}
	if made {
		w.newDirs = append(w.newDirs, filepath.Dir(cfg.Dir))
	}
	return w, nil
}
