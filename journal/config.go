package journal

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"time"

	"github.com/oklog/ulid/v2"
)

const (
	defaultReserve       = 4 << 20
	defaultMaxBytes      = 256 << 20
	defaultVerifyTimeout = 2 * time.Minute

	// Limits of one record. They keep a transaction, and so the reserve, small.
	maxNameLen   = 255
	maxKeyLen    = 1024
	maxDataBytes = 16 << 20

	// The writer takes what waits up to about this much and never lingers for more (DESIGN §11).
	groupUpdates = 1000
	groupBytes   = 256 << 10
)

// Config says where the journal lives and what bounds it. The zero value of a field is its default.
type Config struct {
	// Path of the journal's file, usually DIR/journal.db; required. Its directory must exist and hold nothing
	// else whose name starts with the same word: the journal keeps PATH.lock, PATH.clean and, for moments,
	// PATH.new and PATH.compact beside it. A damaged file becomes PATH.damaged-TIME.
	Path string

	// Logger gets one Info per change of state (created, set aside, compacted, full). Default: discard.
	Logger *slog.Logger

	// Reserve is the number of bytes kept really allocated (blocks on the disk, not a hole) and out of reach of
	// ordinary records, so that ACKs and Urgent records work on a full disk. Default 4 MiB; at least 64 KiB.
	// Raise it when records are large: with less than about eight times the largest entry an ACK on a full disk is still
	// durable, but the room it frees may come only when neighbouring entries go too. Lower it in simulations.
	Reserve int64

	// MaxBytes bounds the live data (entries and puts with their headers, bytes). An ordinary Append that would
	// pass it gets ErrFull; an Urgent one may go beyond it by Reserve. Default 256 MiB. The file itself can be
	// up to about twice as large between a backlog's drain and its compaction.
	MaxBytes int64

	// NoSync leaves out every fsync. Only for simulations on tmpfs: a power cut then loses or damages the journal.
	NoSync bool

	// NewID makes the id of a journal that Open creates. Default: a ULID from crypto/rand.
	NewID func() string

	// VerifyChild checks the file at path in a child process, by calling Verify there. Open calls it after an
	// unclean stop, because bbolt, given damaged pages, can fault or loop for ever, and only a process of its own can be
	// ended from outside. It must return when ctx ends. nil error = intact; an error wrapping ErrNotVerified =
	// could not look; any other error = damaged. VerifyCommand makes one from a command line.
	// Default nil: verify within this process, by a reader that uses no mmap and checks each page before it follows it.
	VerifyChild func(ctx context.Context, path string) error

	// VerifyTimeout bounds the verification, with a second more for each MiB; a file that takes longer counts as
	// damaged. Default 2 min.
	VerifyTimeout time.Duration

	// OnCommit, when set, is called by the writer after each transaction, for histograms. It must not block and
	// must not call the Journal.
	OnCommit func(Commit)
}

// Commit describes one durable transaction to Config.OnCommit.
type Commit struct {
	Duration time.Duration // begin to durable, two fdatasyncs included
	Appends  int           // calls of Append that shared it
	Entries  int           // entries added
	Bytes    int64         // bytes of those entries
}

func (c Config) withDefaults() (Config, error) {
	if c.Path == "" {
		return c, fmt.Errorf("journal config: no path: %w", ErrInvalid)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Reserve == 0 {
		c.Reserve = defaultReserve
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = defaultMaxBytes
	}
	if c.VerifyTimeout == 0 {
		c.VerifyTimeout = defaultVerifyTimeout
	}
	if c.NewID == nil {
		c.NewID = func() string { return ulid.MustNew(ulid.Now(), rand.Reader).String() }
	}
	if c.Reserve < minReserve || c.MaxBytes < 0 || c.VerifyTimeout < 0 {
		return c, fmt.Errorf("journal config: reserve %d (at least %d), max bytes %d, verify timeout %v: %w",
			c.Reserve, minReserve, c.MaxBytes, c.VerifyTimeout, ErrInvalid)
	}
	return c, nil
}
