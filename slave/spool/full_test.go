package spool

import (
	"errors"
	"path/filepath"
	"testing"
	"time"
)

// TestQuota: at the quota nothing more is taken and nothing is lost; whatever
// is ACKed makes room, also when it is only the open segment that is left.
func TestQuota(t *testing.T) {
	for _, quota := range []int64{1, minQuota, 100 << 10, 5 << 20} {
		dir := filepath.Join(t.TempDir(), "log")
		w := newWriter(t, Config{Dir: dir, Quota: quota})
		quota = max(quota, minQuota)
		var full int
		for w.Size() < 4*quota || full < 3 {
			before := w.Size()
			p := text(before, 1+before*31%70_000)
			n, err := w.Write(Stdout, p, time.Now())
			if w.Size() != before+int64(n) {
				t.Fatalf("wrote %d, size went from %d to %d", n, before, w.Size())
			}
			if used, _ := Usage(dir); used > quota+4*headerSize {
				t.Fatalf("%d bytes used, quota %d", used, quota)
			}
			if err == nil {
				continue
			}
			if !errors.Is(err, ErrFull) {
				t.Fatal(err)
			}
			full++
			first, _, err := Range(dir)
			if err != nil {
				t.Fatal(err)
			}
			if full%2 == 0 { // a master that ACKs everything
				mustHold(t, dir, first, w.Size())
				if _, err := Trim(dir, w.Size()); err != nil {
					t.Fatal(err)
				}
			} else if _, err := Trim(dir, first+(w.Size()-first)/2); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(Stdout, text(w.Size(), 1), time.Now()); err != nil {
				t.Fatalf("quota %d: one byte after a trim: %v", quota, err)
			}
		}
		if s, err := Scan(dir); err != nil || s.Size != w.Size() || s.Torn || s.CRC != w.CRC() {
			t.Fatalf("scan: %+v, %v", s, err)
		}
	}
}

// TestQuotaOfMany: the sealed logs of earlier steps leave the quota to the next.
func TestQuotaOfMany(t *testing.T) {
	root := t.TempDir()
	const quota = 64 << 10
	usage := func() (sum int64, err error) {
		logs, _ := filepath.Glob(filepath.Join(root, "*"))
		for _, dir := range logs {
			n, err := Usage(dir)
			if err != nil {
				return 0, err
			}
			sum += n
		}
		return sum, nil
	}
	for step := range 100 {
		dir := filepath.Join(root, string(rune('A'+step)))
		w := newWriter(t, Config{Dir: dir, Quota: quota, Usage: usage})
		for size := int64(step) * 200; w.Size() < size; {
			_, err := w.Write(Stdout, text(w.Size(), size-w.Size()), time.Now())
			if err != nil && !errors.Is(err, ErrFull) {
				t.Fatal(err)
			}
			if _, err := Trim(dir, w.Size()); err != nil {
				t.Fatal(err)
			}
		}
		sealed := w.Seal()
		if _, err := Trim(dir, w.Size()); sealed != nil || err != nil {
			t.Fatal(sealed, err)
		}
	}
}
