package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
)

// ExitCorrupt is the exit code by which a child tells VerifyCommand that the file is damaged (EX_DATAERR).
const ExitCorrupt = 65

// Verify checks everything there is to check about the file at path, without writing to it: page structure, the
// CRC of each record, the sequence of each stream, then bbolt's own check. Nobody may write to the file
// meanwhile; see Inspect for a file that may be in use. Errors wrap ErrCorrupt, ErrNewerVersion, or what the
// operating system says. On a file that passed the first three, bbolt does not fault or loop as far as we know;
// a caller that must survive even that runs Verify in a child process (Config.VerifyChild).
func Verify(path string) error {
	if _, err := verifyRecords(context.Background(), path); err != nil {
		return err
	}
	return verifyBolt(path)
}

// verifyRecords is the part of Verify that no file can make fault or loop.
func verifyRecords(ctx context.Context, path string) (*indexBuilder, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return scanRecords(ctx, f, info.Size())
}

func scanRecords(ctx context.Context, r io.ReaderAt, size int64) (*indexBuilder, error) {
	b := newIndexBuilder()
	if err := walkPages(ctx, r, size, b.add); err != nil {
		return nil, err
	}
	return b, b.finish()
}

func verifyBolt(path string) error {
	return guard("bbolt check", func() error {
		db, err := openReadOnly(path)
		if err != nil {
			return boltOpenError(err)
		}
		defer db.Close()
		return db.View(func(tx *bolt.Tx) error {
			var first error
			for err := range tx.Check() {
				if first == nil {
					first = &CorruptError{Where: "bbolt check", Err: err}
				}
			}
			return first
		})
	})
}

func openReadOnly(path string) (*bolt.DB, error) {
	o := boltOptions(0, false, func(*os.File) {})
	o.ReadOnly = true
	return bolt.Open(path, 0o600, o)
}

// checkVersion reads no more than it takes to find the about record.
func checkVersion(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	b := newIndexBuilder()
	err = walkPages(ctx, f, info.Size(), func(bucket string, key, value []byte) error {
		if err := b.add(bucket, key, value); err != nil {
			return err
		}
		return errStopWalk // the about record sorts first
	})
	if err == nil && b.about == nil {
		return corruptf("about", "this is no journal")
	}
	return err
}

// verifyForOpen verifies in a child if there is one, and says ErrCorrupt for whatever a file can do to its reader.
func verifyForOpen(ctx context.Context, cfg Config) error {
	limit := cfg.VerifyTimeout
	if info, err := os.Stat(cfg.Path); err == nil {
		limit += time.Duration(info.Size()/verifyRate) * time.Second
	}
	limited, cancel := context.WithTimeoutCause(ctx, limit, errVerifyTimeout)
	defer cancel()
	err := ErrNotVerified
	if cfg.VerifyChild != nil {
		err = childVerdict(cfg.VerifyChild(limited, cfg.Path))
	}
	if errors.Is(err, ErrNotVerified) {
		if cfg.VerifyChild != nil {
			cfg.Logger.Info("journal is verified without a child process", "err", err)
		}
		if _, err = verifyRecords(limited, cfg.Path); err == nil {
			err = verifyBolt(cfg.Path)
		}
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil: // we were told to stop: no verdict
		return fmt.Errorf("verify: %w", context.Cause(ctx))
	case errors.Is(err, errVerifyTimeout):
		return &CorruptError{Where: "verify", Err: err}
	}
	return err
}

// childVerdict: a child that looked and did not say "intact" has met damage, whatever became of it.
func childVerdict(err error) error {
	for _, known := range []error{nil, ErrNotVerified, ErrNewerVersion, ErrCorrupt, ErrLocked} {
		if errors.Is(err, known) {
			return err
		}
	}
	return &CorruptError{Where: "verify in child", Err: err}
}

// verifyRate is the bytes a second that a slow and busy disk is granted beyond VerifyTimeout: a file must not count as
// damaged for being large.
const verifyRate = 1 << 20

var errVerifyTimeout = errors.New("verification took too long")

// VerifyCommand returns a Config.VerifyChild that runs the command with the file's path as last argument. The command
// calls Verify and exits 0 if the file is intact, with ExitCorrupt and a reason on stderr if it is not. A fault and
// running into the deadline count as damage too; a command that does not start, that somebody kills or that exits
// otherwise, as not verified. It has a session of its own: Ctrl-C is meant for us, not for it.
func VerifyCommand(name string, args ...string) func(ctx context.Context, path string) error {
	return func(ctx context.Context, path string) error {
		cmd := exec.CommandContext(ctx, name, append(args[:len(args):len(args)], path)...)
		cmd.WaitDelay = time.Second
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		var stderr strings.Builder
		cmd.Stderr = &stderr
		err := cmd.Run()
		if err == nil {
			return nil
		}
		if cause := context.Cause(ctx); cause != nil {
			return &CorruptError{Where: "verify in child", Err: cause}
		}
		var exit *exec.ExitError
		switch {
		case !errors.As(err, &exit):
			return fmt.Errorf("%w: %w", ErrNotVerified, err)
		case exit.ExitCode() == ExitCorrupt:
			return corruptf("verify in child", "%s", strings.TrimSpace(stderr.String()))
		case isFault(exit):
			return &CorruptError{Where: "verify in child", Err: err}
		}
		return fmt.Errorf("%w: %w: %s", ErrNotVerified, err, strings.TrimSpace(stderr.String()))
	}
}

// isFault tells a reader that the file made fault from one that somebody stopped: an operator, a service manager that
// signals the whole group, a kernel short of memory. None of these has seen damage.
func isFault(exit *exec.ExitError) bool {
	status, ok := exit.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return false
	}
	switch status.Signal() {
	case syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGILL, syscall.SIGFPE, syscall.SIGABRT:
		return true
	default:
		return false
	}
}
