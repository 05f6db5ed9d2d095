package link

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"holdfast/master/spec"
	"holdfast/proto/chain"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

var testLimits = &holdfastv1.Limits{MaxBatchUpdates: minBatchUpdates, MaxBatchBytes: minBatchBytes, MaxChunkBytes: minChunkBytes}

const testID = "01JHF0000000000000000000AA"

// Features are agreed by name (P-feature P16).
func TestCommonFeatures(t *testing.T) {
	got := commonFeatures([]string{"zeta", "alpha", "master"}, []string{"alpha", "slave", "zeta"})
	if !slices.Equal(got, []string{"alpha", "zeta"}) {
		t.Errorf("%v", got)
	}
	if got := commonFeatures(nil, []string{"x"}); got != nil {
		t.Errorf("%v", got)
	}
}

// A chunk is checked in full before anything is stored (P-log P22); one whose
// encoder knew nothing of our limits is as good.
func TestLogChunkChecks(t *testing.T) {
	zd, err := newLogDecoder()
	if err != nil {
		t.Fatal(err)
	}
	raw := []byte(strings.Repeat("some text of a log\n", 3000))
	var streamed strings.Builder
	w, err := zstd.NewWriter(&streamed, zstd.WithWindowSize(8<<20))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	good := func() *holdfastv1.LogChunk {
		return &holdfastv1.LogChunk{
			AttemptId: testID, StepId: testID, RawLength: uint32(len(raw)),
			Codec: holdfastv1.LogChunk_CODEC_ZSTD, Data: []byte(streamed.String()), Crc: chain.Sum(raw),
			Marks: []*holdfastv1.TimeMark{{At: 0, Stream: 1}, {At: 7, Stream: 2}},
		}
	}
	op, err := decodeLog(good(), testLimits, zd)
	if err != nil || string(op.Raw) != string(raw) || len(op.Chunk.Marks) != 2 {
		t.Fatalf("%v", err)
	}
	for name, change := range map[string]func(c *holdfastv1.LogChunk){
		"one byte too few":    func(c *holdfastv1.LogChunk) { c.RawLength-- },
		"one byte too many":   func(c *holdfastv1.LogChunk) { c.RawLength++ },
		"trailing garbage":    func(c *holdfastv1.LogChunk) { c.Data = append(c.Data, "garbage"...) },
		"cut":                 func(c *holdfastv1.LogChunk) { c.Data = c.Data[:len(c.Data)-3] },
		"mark beyond the end": func(c *holdfastv1.LogChunk) { c.Marks[1].At = c.RawLength },
		"marks out of order":  func(c *holdfastv1.LogChunk) { c.Marks[1].At = 0 },
		"skippable frames":    func(c *holdfastv1.LogChunk) { c.Data = append(skippable(200<<10), c.Data...) },
	} {
		c := good()
		change(c)
		if _, err := decodeLog(c, testLimits, zd); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// skippable is a zstd frame that holds nothing.
func skippable(n int) []byte {
	b := make([]byte, 8+n)
	copy(b, []byte{0x50, 0x2a, 0x4d, 0x18, byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)})
	return b
}

func TestClip(t *testing.T) {
	for _, tc := range []struct {
		in   string
		n    int
		want string
	}{{"abc", 3, "abc"}, {"abc", 2, "ab"}, {"aé", 2, "a"}, {"é", 1, ""}, {"", 0, ""}} {
		if got := clip(tc.in, tc.n); got != tc.want {
			t.Errorf("clip(%q, %d) = %q", tc.in, tc.n, got)
		}
	}
	if micros(math.MaxInt64) <= 0 || micros(-1) != 0 {
		t.Error("durations overflow")
	}
}

// FuzzHandle: whatever a slave sends, decoding does not panic, and what comes
// out is within bounds.
func FuzzHandle(f *testing.F) {
	zd, err := newLogDecoder()
	if err != nil {
		f.Fatal(err)
	}
	for _, m := range sampleRequests() {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var req holdfastv1.ConnectRequest
		if proto.Unmarshal(b, &req) != nil {
			return
		}
		addressOf(&req)
		switch m := req.GetMessage().(type) {
		case *holdfastv1.ConnectRequest_Status:
			op, err := decodeBatch(m.Status, testLimits)
			if op != nil && (op.First == 0 || len(op.Raw) == 0 || len(op.Updates) != len(op.Raw)) {
				t.Errorf("op %+v, %v", op, err)
			}
			if op == nil && err == nil {
				t.Error("neither op nor error")
			}
		case *holdfastv1.ConnectRequest_Log:
			if op, err := decodeLog(m.Log, testLimits, zd); err == nil && (len(op.Raw) != op.Chunk.RawLen || op.Chunk.Offset < 0 || op.Chunk.RawLen > minChunkBytes) {
				t.Errorf("op %+v", op)
			}
		case *holdfastv1.ConnectRequest_Gap:
			if op, err := decodeGap(m.Gap); err == nil && (op.From == 0 || op.To < op.From) {
				t.Errorf("op %+v", op)
			}
		case *holdfastv1.ConnectRequest_LogGap:
			if op, err := decodeLogGap(m.LogGap); err == nil && (op.From < 0 || op.To <= op.From) {
				t.Errorf("op %+v", op)
			}
		case *holdfastv1.ConnectRequest_Absent:
			if op, err := decodeAbsent(m.Absent); err == nil && op.LastSeq > maxSeq {
				t.Errorf("op %+v", op)
			}
		case *holdfastv1.ConnectRequest_Recover:
			op, err := decodeRecover(m.Recover)
			if err != nil {
				break
			}
			kept, err := spec.Unmarshal(op.Build.Spec)
			if err != nil || len(kept.Steps) != len(op.Steps) || len(op.Steps) != len(m.Recover.GetAssignment().GetStepIds()) || !validID(string(op.Build.ID)) {
				t.Errorf("op %+v: %v", op, err)
			}
		case *holdfastv1.ConnectRequest_Hello:
			if checkHello(m.Hello) == nil {
				slaveOf(m.Hello)
				_ = describeHello(m.Hello)
			}
		}
	})
}
