//go:build linux

package journal_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/journal"
)

const updateBytes = 256

// BenchmarkAppend: updates per second through Append with the ACK of the one before, for batches (updates in an
// entry) and streams (entries in an Append, each of a stream of its own), beside a plain file to which the same bytes are
// appended with one fdatasync, alternating in the same run.
func BenchmarkAppend(b *testing.B) {
	for _, batch := range []int{1, 16, 256, 4096} {
		for _, streams := range []int{1, 10, 100} {
			if batch*streams > 40_960 {
				continue
			}
			b.Run(fmt.Sprintf("batch=%d/streams=%d", batch, streams), func(b *testing.B) { benchAppend(b, batch, streams) })
		}
	}
}

func benchAppend(b *testing.B, batch, streams int) {
	dir := b.TempDir()
	ctx, cancel := context.WithCancel(b.Context())
	j, _, err := journal.Open(ctx, journal.Config{Path: filepath.Join(dir, "journal.db"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- j.Run(ctx) }()
	raw, err := os.Create(filepath.Join(dir, "raw"))
	if err != nil {
		b.Fatal(err)
	}
	defer raw.Close()
	data := make([]byte, batch*updateBytes)
	writes := make([]journal.Write, streams)
	var inJournal, inRaw time.Duration
	next := uint64(1)
	for b.Loop() {
		last := next + uint64(batch) - 1
		for i := range writes {
			writes[i] = journal.Write{Stream: fmt.Sprint("s", i), Entries: []journal.Entry{{First: next, Last: last, Data: data}}, Ack: next - 1}
		}
		next = last + 1
		began := time.Now()
		if err := j.Append(ctx, writes...); err != nil {
			b.Fatal(err)
		}
		between := time.Now()
		for range writes {
			if _, err := raw.Write(data); err != nil {
				b.Fatal(err)
			}
		}
		if err := unix.Fdatasync(int(raw.Fd())); err != nil {
			b.Fatal(err)
		}
		inJournal += between.Sub(began)
		inRaw += time.Since(between)
	}
	updates := float64(b.N * batch * streams)
	b.ReportMetric(updates/inJournal.Seconds(), "updates/s")
	b.ReportMetric(inRaw.Seconds()/inJournal.Seconds(), "of-raw-append")
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}
