package slave

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"holdfast/proto/chain"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/slave/spool"
)

// piece is a record of a spool whose CRC is right.
type piece struct {
	offset int64
	data   []byte
}

// spoolForger is a step that writes its own log.
type spoolForger struct {
	*source
	dir    string
	next   int64 // where the log goes on if it is one
	pieces []piece
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// FuzzForgedSpool: whatever a step makes of its spool, what is sent of it is
// within a master's limits and in order, has bytes only that a whole record holds
// there, and comes to an end (P-log P22, P-log-state P23, P-limits P25).
func FuzzForgedSpool(f *testing.F) {
	for seed := range 10 {
		f.Add(noise(seed, 40+20*seed))
	}
	agent, err := New(Config{
		Dir: f.TempDir(), Name: "b7", Masters: []string{"nobody"}, Runners: newFakeRunners(f), NoSync: true, MinFree: -1, BootID: "boot-1",
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		f.Fatal(err)
	}
	zip, err := newEncoder()
	if err != nil {
		f.Fatal(err)
	}
	unzip, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		f.Fatal(err)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 2<<10 {
			return
		}
		s := &spoolForger{source: &source{b}, dir: filepath.Join(dir, "log")}
		if err := errors.Join(os.RemoveAll(s.dir), os.Mkdir(s.dir, 0o700)); err != nil {
			t.Fatal(err)
		}
		size := one(s.source, int64(-1), 0, 1, 1000, spool.MaxOffset)
		for s.more() {
			s.segment()
		}
		if size < 0 {
			size = min(s.next, spool.MaxOffset)
		}
		scanned, err := spool.Scan(s.dir)
		if err != nil && !errors.Is(err, spool.ErrNewer) {
			t.Fatal(err)
		}
		if scanned.Size < 0 || scanned.Size > spool.MaxOffset {
			t.Errorf("scanned %+v", scanned)
		}
		// As a session sends it once the step is over.
		meta := attemptMeta{Attempt: newID(), StepIDs: []string{newID()}, spec: spec(1)}
		att := agent.newAttempt(meta, newReport(meta.StepIDs))
		att.logs[0] = logState{spool: s.dir, final: true, size: size}
		session := &session{a: agent, zstd: zip}
		v := &voyage{t: att, tails: make([]*tail, 1)}
		next := int64(0)
		for sent := 0; ; sent++ {
			m, err := session.logOf(v, max(1000, len(b)*97%v1ChunkBytes))
			if err != nil {
				t.Fatalf("the agent would end: %v", err)
			}
			if m == nil {
				break
			}
			if next, err = s.take(m, next, unzip); err != nil {
				t.Fatal(err)
			}
			if sent > 100_000 {
				t.Fatal("it does not come to an end")
			}
		}
		if tl := v.tails[0]; size > 0 && (tl == nil || !tl.done || next < size) {
			t.Errorf("sent up to %d of %d, and then nothing: %+v", next, size, tl)
		}
	})
}

// take checks one message and returns where the log goes on.
func (s *spoolForger) take(m *holdfastv1.ConnectRequest, next int64, unzip *zstd.Decoder) (int64, error) {
	if g := m.GetLogGap(); g != nil {
		if g.GetFromOffset() != next || g.GetToOffset() <= next || g.GetToOffset() > 1<<62 {
			return 0, fmt.Errorf("a gap from %d to %d at %d", g.GetFromOffset(), g.GetToOffset(), next)
		}
		return g.GetToOffset(), nil
	}
	c := m.GetLog()
	raw := c.GetData()
	if c.GetCodec() == holdfastv1.LogChunk_CODEC_ZSTD {
		var err error
		if raw, err = unzip.DecodeAll(raw, nil); err != nil {
			return 0, err
		}
	}
	if c.GetOffset() != next || len(raw) == 0 || len(raw) > v1ChunkBytes || int(c.GetRawLength()) != len(raw) || chain.Sum(raw) != c.GetCrc() || next > 1<<62-int64(len(raw)) {
		return 0, fmt.Errorf("a chunk of %d bytes at %d, which says %d at %d", len(raw), next, c.GetRawLength(), c.GetOffset())
	}
	at := -1
	for _, mark := range c.GetMarks() {
		if int(mark.GetAt()) <= at || int(mark.GetAt()) >= len(raw) || mark.GetStream() < 0 || mark.GetStream() > 2 {
			return 0, fmt.Errorf("time marks %v", c.GetMarks())
		}
		at = int(mark.GetAt())
	}
	for len(raw) > 0 {
		n := 0
		for _, p := range s.pieces {
			if p.offset > next || p.offset+int64(len(p.data)) <= next {
				continue
			}
			have := p.data[next-p.offset:]
			if have = have[:min(len(have), len(raw))]; bytes.Equal(have, raw[:len(have)]) {
				n = max(n, len(have))
			}
		}
		if n == 0 {
			return 0, fmt.Errorf("sent %x at %d, where no record has it", raw[:1], next)
		}
		raw, next = raw[n:], next+int64(n)
	}
	return next, nil
}

// segment writes one file.
func (s *spoolForger) segment() {
	base := s.offset()
	name := fmt.Sprintf("%020d.seg", one(s.source, base, base, base, base, base, base, base, s.offset()))
	path := filepath.Join(s.dir, name)
	_ = os.RemoveAll(path)
	switch s.pick(24) {
	case 0:
		_ = unix.Mkfifo(path, 0o600)
		return
	case 1:
		_ = os.Symlink(one(s.source, name, "nowhere", "/dev/zero", "."), path)
		return
	case 2:
		_ = os.Mkdir(path, 0o700)
		return
	}
	b := []byte("HFSP\x01\x00\x20\x00")
	b[4] = one(s.source, byte(1), 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 9)
	b = binary.LittleEndian.AppendUint64(b, uint64(base))
	b = append(b, make([]byte, 12)...)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	for range s.pick(8) {
		p := piece{offset: s.offset(), data: bytes.Repeat([]byte{'a' + byte(s.pick(26))}, one(s.source, 1, 10, 1000, 40_000, spool.MaxRecord, 0))}
		start := len(b)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(p.data)))
		b = append(b, 0, 0, 0, 0)
		b = binary.LittleEndian.AppendUint64(b, uint64(p.offset))
		b = binary.LittleEndian.AppendUint64(b, uint64(one(s.source, int64(1), 0, -1, math.MaxInt64, math.MinInt64)))
		b = append(b, one(s.source, byte(1), 1, 1, 2, 2, 2, 0, 7), 0, 0, 0)
		b = append(b, p.data...)
		binary.LittleEndian.PutUint32(b[start+4:], crc32.Checksum(b[start+8:], castagnoli))
		switch s.pick(8) {
		case 0:
			b[start+s.pick(len(b)-start)] ^= 1
		case 1:
			b = b[:len(b)-1-s.pick(len(b)-start-1)]
		default:
			s.pieces = append(s.pieces, p)
			s.next = p.offset + int64(len(p.data))
		}
	}
	_ = os.WriteFile(path, b, 0o600)
}

// offset is the next one, for the most part.
func (s *spoolForger) offset() int64 {
	return one(s.source, s.next, s.next, s.next, s.next, s.next, s.next, s.next, s.next, s.next+int64(s.pick(100)), s.next-1, 0, 1<<40, 1<<62, 1<<62+1, math.MaxInt64, -1)
}
