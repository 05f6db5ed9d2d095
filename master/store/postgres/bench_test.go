package postgres_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/pgtest"
	"holdfast/master/store/postgres"
	"holdfast/proto/chain"
)

// bench is a store on a disk, with running attempts of one step each, and a table
// beside it for what the server does by itself.
type bench struct {
	*testing.B
	s        *postgres.Store
	session  store.Session
	attempts []lifecycle.AttemptID
	steps    []lifecycle.StepID
	conn     *pgx.Conn
	copied   float64 // commits a second, the mean of before and after
}

func newBench(b *testing.B, c *pgtest.Cluster, attempts int) *bench {
	b.Helper()
	name := fmt.Sprintf("bench_%d", time.Now().UnixNano())
	url, err := c.CreateDatabase(b.Context(), name)
	if err != nil {
		b.Fatal(err)
	}
	s := open(b, postgres.Config{URL: url, Readers: 1})
	con := &store.Connect{Now: time.Now(), Slave: store.Slave{Instance: "instance", Name: "slave", Slots: attempts}}
	if err := s.Commit(b.Context(), con); err != nil || con.Err != nil {
		b.Fatal(err, con.Err)
	}
	v := &bench{B: b, s: s, session: store.Session{Instance: "instance", Epoch: con.Epoch}, conn: connect(b, url)}
	for i := range attempts {
		build := fmt.Sprintf("01KA000000000000000BUILD%02d", i)
		v.attempts = append(v.attempts, lifecycle.AttemptID(fmt.Sprintf("01KA00000000000000ATTEMPT%02d", i)))
		v.steps = append(v.steps, lifecycle.StepID(fmt.Sprintf("01KA00000000000000000STEP%02d", i)))
		assign := &store.Assign{Now: time.Now(), Build: lifecycle.BuildID(build), Session: v.session, Attempt: v.attempts[i], Steps: []store.Step{{ID: v.steps[i], Name: "one"}}}
		if err := s.Commit(b.Context(), submission(build), assign); err != nil || assign.Err != nil {
			b.Fatal(err, assign.Err)
		}
	}
	do(b, v.conn, `CREATE TABLE plain (id TEXT COLLATE "C" NOT NULL, a BIGINT NOT NULL, b BIGINT NOT NULL, data BYTEA NOT NULL)`)
	return v
}

// copy commits COPYs of some rows each into a table without an index, for a while.
func (v *bench) copy(rows, size int) {
	v.Helper()
	data := random(size)
	// The binary format: a head, rows of fields with their lengths, and an end.
	field := func(to *bytes.Buffer, value []byte) {
		binary.Write(to, binary.BigEndian, int32(len(value))) //nolint:errcheck // a buffer
		to.Write(value)
	}
	var rowsOf bytes.Buffer
	rowsOf.WriteString("PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	for i := range rows {
		rowsOf.Write([]byte{0, 4})
		field(&rowsOf, []byte("01KA00000000000000ATTEMPT00"))
		field(&rowsOf, binary.BigEndian.AppendUint64(nil, uint64(i)))
		field(&rowsOf, binary.BigEndian.AppendUint64(nil, uint64(i)))
		field(&rowsOf, data)
	}
	rowsOf.Write([]byte{0xff, 0xff})
	n, start := 0, time.Now()
	for ; n < 30 || time.Since(start) < 300*time.Millisecond; n++ {
		if _, err := v.conn.PgConn().CopyFrom(context.Background(), bytes.NewReader(rowsOf.Bytes()), `COPY plain FROM STDIN (FORMAT binary)`); err != nil {
			v.Fatal(err)
		}
	}
	v.copied += float64(n) / time.Since(start).Seconds() / 2
}

func random(size int) []byte {
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	return data
}

// benchCluster is a durable server on a disk.
func benchCluster(b *testing.B) *pgtest.Cluster {
	b.Helper()
	pgtest.Need(b)
	c, err := pgtest.Start(pgtest.Config{Settings: map[string]string{"max_wal_size": "4GB"}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := c.Close(); err != nil {
			b.Error(err)
		}
	})
	return c
}

// BenchmarkApplyStatus: 256-byte updates in batches, and in groups of batches of
// several attempts.
func BenchmarkApplyStatus(b *testing.B) {
	cluster := benchCluster(b)
	for _, c := range []struct{ group, batch int }{{1, 1}, {1, 16}, {1, 256}, {1, 1024}, {4, 256}, {16, 16}, {16, 64}} {
		b.Run(fmt.Sprintf("group=%d/batch=%d", c.group, c.batch), func(b *testing.B) {
			v := newBench(b, cluster, c.group)
			v.copy(c.group, c.batch*258) // with their lengths
			updates := make([][]byte, c.batch)
			for i := range updates {
				updates[i] = random(256)
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
					ops[i] = &store.ApplyStatus{Now: time.Now(), Session: v.session, Attempt: v.attempts[i], First: mark[i] + 1, Raw: updates, Updates: decoded, CRCBefore: crc[i], CRCAfter: after}
					mark[i], crc[i] = mark[i]+lifecycle.Seq(c.batch), after
				}
				v.commit(ops, &ops[0].(*store.ApplyStatus).Err)
				commits++
			}
			rate := float64(commits) / b.Elapsed().Seconds()
			b.StopTimer()
			v.copy(c.group, c.batch*258)
			b.ReportMetric(rate*float64(c.group*c.batch), "updates/s")
			b.ReportMetric(rate/v.copied, "of-copy")
		})
	}
}

// BenchmarkApplyLog: log chunks that do not compress.
func BenchmarkApplyLog(b *testing.B) {
	cluster := benchCluster(b)
	for _, c := range []struct{ group, size int }{{1, 4 << 10}, {1, 32 << 10}, {8, 32 << 10}, {4, 64 << 10}, {16, 64 << 10}} {
		b.Run(fmt.Sprintf("group=%d/chunk=%dKiB", c.group, c.size>>10), func(b *testing.B) {
			v := newBench(b, cluster, 1)
			v.copy(c.group, c.size)
			data := random(c.size)
			crc := chain.Sum(data)
			var offset int64
			commits := 0
			b.SetBytes(int64(c.group * c.size))
			b.ResetTimer()
			for b.Loop() {
				ops := make([]store.Op, c.group)
				for i := range ops {
					ops[i] = &store.ApplyLog{Now: time.Now(), Session: v.session, Attempt: v.attempts[0], Step: v.steps[0], Raw: data, Chunk: store.LogChunk{
						Offset: offset, RawLen: c.size, Codec: store.CodecRaw, Data: data, CRC: crc,
					}}
					offset += int64(c.size)
				}
				v.commit(ops, &ops[0].(*store.ApplyLog).Err)
				commits++
			}
			rate := float64(commits) / b.Elapsed().Seconds()
			b.StopTimer()
			v.copy(c.group, c.size)
			b.ReportMetric(rate/v.copied, "of-copy")
		})
	}
}

func (v *bench) commit(ops []store.Op, opErr *error) {
	if err := v.s.Commit(context.Background(), ops...); err != nil || *opErr != nil {
		v.Fatal(err, *opErr)
	}
}
