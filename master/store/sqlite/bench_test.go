package sqlite_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/sqlite"
	"holdfast/proto/chain"
)

// rawRate is the disk's own: appends of size bytes with an fdatasync each.
func rawRate(b *testing.B, size int) float64 {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "raw"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	data := bytes.Repeat([]byte{0x5a}, size)
	n, start := 0, time.Now()
	for ; n < 50 || time.Since(start) < 200*time.Millisecond; n++ {
		if _, err := f.Write(data); err != nil {
			b.Fatal(err)
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
	}
	return float64(n) / time.Since(start).Seconds()
}

// benchStore opens a durable store with running attempts of one step each.
func benchStore(b *testing.B, attempts int) (*sqlite.Store, store.Session, []lifecycle.AttemptID, []lifecycle.StepID) {
	b.Helper()
	ctx := context.Background()
	s, err := sqlite.Open(ctx, sqlite.Config{Path: filepath.Join(b.TempDir(), "holdfast.db")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	connect := &store.Connect{Now: time.Now(), Slave: store.Slave{Instance: "instance", Name: "slave", Slots: attempts}}
	if err := s.Commit(ctx, connect); err != nil {
		b.Fatal(err)
	}
	session := store.Session{Instance: "instance", Epoch: connect.Epoch}
	var ids []lifecycle.AttemptID
	var steps []lifecycle.StepID
	for i := range attempts {
		build := lifecycle.BuildID(fmt.Sprintf("01KA000000000000000BUILD%02d", i))
		ids = append(ids, lifecycle.AttemptID(fmt.Sprintf("01KA00000000000000ATTEMPT%02d", i)))
		steps = append(steps, lifecycle.StepID(fmt.Sprintf("01KA00000000000000000STEP%02d", i)))
		assign := &store.Assign{Now: time.Now(), Build: build, Session: session, Attempt: ids[i], Steps: []store.Step{{ID: steps[i], Name: "one"}}}
		if err := s.Commit(ctx, &store.Submit{Now: time.Now(), Build: lifecycle.Build{ID: build, Spec: []byte(`{}`)}}, assign); err != nil || assign.Err != nil {
			b.Fatal(err, assign.Err)
		}
	}
	return s, session, ids, steps
}

// BenchmarkApplyStatus: 256-byte updates in batches, and in groups of batches
// of several attempts.
func BenchmarkApplyStatus(b *testing.B) {
	for _, c := range []struct{ group, batch int }{{1, 1}, {1, 16}, {1, 256}, {1, 1024}, {4, 256}, {16, 16}, {16, 64}} {
		b.Run(fmt.Sprintf("group=%d/batch=%d", c.group, c.batch), func(b *testing.B) {
			raw := rawRate(b, c.group*c.batch*256)
			s, session, ids, _ := benchStore(b, c.group)
			payload := make([]byte, 256)
			for i := range payload {
				payload[i] = byte(rand.Uint32())
			}
			updates := make([][]byte, c.batch)
			for i := range updates {
				updates[i] = payload
			}
			mark, crc := make([]lifecycle.Seq, c.group), make([]uint32, c.group)
			commits := 0
			b.ResetTimer()
			for b.Loop() {
				ops := make([]store.Op, c.group)
				for i := range ops {
					decoded := make([]lifecycle.Update, c.batch)
					for j := range decoded {
						decoded[j].Seq = mark[i] + lifecycle.Seq(j) + 1
					}
					after := chain.ExtendAll(crc[i], updates)
					ops[i] = &store.ApplyStatus{Now: time.Now(), Session: session, Attempt: ids[i], First: mark[i] + 1, Raw: updates, Updates: decoded, CRCBefore: crc[i], CRCAfter: after}
					mark[i], crc[i] = mark[i]+lifecycle.Seq(c.batch), after
				}
				if err := s.Commit(context.Background(), ops...); err != nil {
					b.Fatal(err)
				}
				if err := ops[0].(*store.ApplyStatus).Err; err != nil {
					b.Fatal(err)
				}
				commits++
			}
			rate := float64(commits) / b.Elapsed().Seconds()
			b.ReportMetric(rate*float64(c.group*c.batch), "updates/s")
			b.ReportMetric(rate/raw, "of-raw-append")
		})
	}
}

// BenchmarkApplyLog: log chunks that do not compress.
func BenchmarkApplyLog(b *testing.B) {
	for _, c := range []struct{ group, size int }{{1, 4 << 10}, {1, 32 << 10}, {8, 32 << 10}, {4, 64 << 10}, {16, 64 << 10}} {
		b.Run(fmt.Sprintf("group=%d/chunk=%dKiB", c.group, c.size>>10), func(b *testing.B) {
			raw := rawRate(b, c.group*c.size)
			s, session, ids, steps := benchStore(b, 1)
			data := make([]byte, c.size)
			for i := range data {
				data[i] = byte(rand.Uint32())
			}
			crc := chain.Sum(data)
			var offset int64
			commits := 0
			b.SetBytes(int64(c.group * c.size))
			b.ResetTimer()
			for b.Loop() {
				ops := make([]store.Op, c.group)
				for i := range ops {
					ops[i] = &store.ApplyLog{Now: time.Now(), Session: session, Attempt: ids[0], Step: steps[0], Raw: data, Chunk: store.LogChunk{
						Offset: offset, RawLen: c.size, Codec: store.CodecRaw, Data: data, CRC: crc,
					}}
					offset += int64(c.size)
				}
				if err := s.Commit(context.Background(), ops...); err != nil {
					b.Fatal(err)
				}
				if err := ops[0].(*store.ApplyLog).Err; err != nil {
					b.Fatal(err)
				}
				commits++
			}
			b.ReportMetric(float64(commits)/b.Elapsed().Seconds()/raw, "of-raw-append")
		})
	}
}

// BenchmarkCommitter: sessions that send batches with a window, as in
// production; ACK latency and all.
func BenchmarkCommitter(b *testing.B) {
	for _, c := range []struct{ sessions, batch, window int }{{1, 64, 16}, {10, 64, 16}, {100, 16, 4}} {
		b.Run(fmt.Sprintf("sessions=%d/batch=%d", c.sessions, c.batch), func(b *testing.B) {
			raw := rawRate(b, 1000*256)
			s, session, ids, _ := benchStore(b, c.sessions)
			ctx, cancel := context.WithCancel(context.Background())
			committer := store.NewCommitter(store.CommitterConfig{Store: s})
			result := make(chan error, 1)
			go func() { result <- committer.Run(ctx) }()
			updates := make([][]byte, c.batch)
			for i := range updates {
				updates[i] = bytes.Repeat([]byte{byte(i)}, 256)
			}
			var wg sync.WaitGroup
			b.ResetTimer()
			for i := range c.sessions {
				wg.Go(func() {
					window := make(chan struct{}, c.window)
					var mark lifecycle.Seq
					var crc uint32
					for range b.N {
						decoded := make([]lifecycle.Update, c.batch)
						for j := range decoded {
							decoded[j].Seq = mark + lifecycle.Seq(j) + 1
						}
						after := chain.ExtendAll(crc, updates)
						op := &store.ApplyStatus{Now: time.Now(), Session: session, Attempt: ids[i], First: mark + 1, Raw: updates, Updates: decoded, CRCBefore: crc, CRCAfter: after}
						mark, crc = mark+lifecycle.Seq(c.batch), after
						window <- struct{}{}
						if err := committer.Go(ctx, op, func(err error) {
							if err != nil || op.Err != nil {
								b.Error(err, op.Err)
							}
							<-window
						}); err != nil {
							b.Error(err)
							return
						}
					}
					for range c.window {
						window <- struct{}{}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			total := float64(b.N * c.sessions * c.batch)
			b.ReportMetric(total/b.Elapsed().Seconds(), "updates/s")
			b.ReportMetric(total/b.Elapsed().Seconds()/(raw*1000), "of-raw-append")
			cancel()
			if err := <-result; err != nil {
				b.Error(err)
			}
		})
	}
}
