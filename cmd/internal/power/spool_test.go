package power

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/slave/spool"
)

// TestCutSpool (P-durable, P-log): what a sync of the log has covered and no ACK has
// let go can be read after a cut, and nothing is read that was not written.
func TestCutSpool(t *testing.T) { cutPower(t, "spool") }

// logBytes are n bytes of the log from an offset on.
func logBytes(offset int64, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		at := offset + int64(i)
		b[i] = byte(at*7 + at>>8*13 + at>>16)
	}
	return b
}

func writeSpool(dir string, _ int, say func(string, ...any)) error {
	step := filepath.Join(dir, "step")
	if err := os.Mkdir(step, 0o755); err != nil {
		return err
	}
	if err := syncPath(dir); err != nil {
		return err
	}
	log := filepath.Join(step, "log")
	w, err := spool.NewWriter(spool.Config{Dir: log, Quota: 16 << 10}) // segments of 4 KiB
	if err != nil {
		return err
	}
	ack := func(offset int64) error {
		say("acked %d", offset)
		_, err := spool.Trim(log, offset)
		return err
	}
	for i := range 60 {
		size := 50 + i*397%1500
		say("writing %d", w.Size()+int64(size))
		for left := size; left > 0; {
			n, err := w.Write(spool.Stdout, logBytes(w.Size(), left), time.Now())
			left -= n
			if errors.Is(err, spool.ErrFull) {
				err = ack(w.Size()) // sent before it was synced
			}
			if err != nil {
				return err
			}
		}
		if i%3 == 2 {
			size := w.Size()
			sync := w.Sync
			if i%2 == 0 {
				sync = w.Flush
			}
			if err := sync(); err != nil {
				return err
			}
			say("synced %d", size)
			if i%9 == 8 {
				if err := ack(size - int64(i%2)*3000); err != nil {
					return err
				}
			}
		}
	}
	if err := errors.Join(w.Seal(), w.Sync()); err != nil {
		return err
	}
	say("synced %d", w.Size())
	if err := w.Close(); err != nil {
		return err
	}
	return ack(w.Size())
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func checkSpool(dir string, said []string, deep bool) error {
	var writing, synced, acked int64
	for _, line := range said {
		var word string
		var n int64
		fmt.Sscan(line, &word, &n)
		switch word {
		case "writing":
			writing = max(writing, n)
		case "synced":
			synced = max(synced, n)
		case "acked":
			acked = max(acked, n)
		}
	}
	log := filepath.Join(dir, "step", "log")
	first, next, err := spool.Range(log)
	if err != nil {
		return err
	}
	if synced > acked && (first > acked || next < synced) {
		return fmt.Errorf("it holds %d to %d; ACKed is %d, synced %d", first, next, acked, synced)
	}
	if next > writing {
		return fmt.Errorf("it ends at %d; only %d bytes were ever written", next, writing)
	}
	if _, err := spool.Scan(log); err != nil {
		return err
	}
	if err := readSpool(log, max(first, min(acked, next)), synced); err != nil {
		return err
	}
	if !deep {
		return nil
	}
	if _, err := spool.Trim(log, next); err != nil {
		return err
	}
	if _, end, err := spool.Range(log); err != nil || end != next {
		return fmt.Errorf("trimmed to %d it ends at %d: %v", next, end, err)
	}
	return nil
}

// readSpool reads the log from an offset on, as the agent does once nobody
// writes any more. What is damaged must lie behind what was synced.
func readSpool(log string, from, synced int64) error {
	r, err := spool.NewReader(log, from)
	if err != nil {
		return err
	}
	defer r.Close()
	for at := from; ; {
		c, err := r.Next(4 << 10)
		switch {
		case err == nil:
			if string(c.Data) != string(logBytes(c.Offset, len(c.Data))) {
				return fmt.Errorf("at %d it has other bytes than were written", c.Offset)
			}
			if c.Offset != at {
				return fmt.Errorf("after %d comes %d", at, c.Offset)
			}
			at = c.Offset + int64(len(c.Data))
		case errors.Is(err, io.EOF) || errors.Is(err, spool.ErrTorn):
			if at < synced && from < synced {
				return fmt.Errorf("it can be read up to %d, synced is %d: %w", at, synced, err)
			}
			if errors.Is(err, spool.ErrTorn) {
				at, err = r.Skip()
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
		default:
			return err
		}
	}
}
