package slave

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"holdfast/proto/chain"
)

func makeFrame(first uint64, before uint32, n int) *frame {
	f := &frame{first: first, before: before}
	for i := range n {
		f.updates = append(f.updates, fmt.Appendf(nil, "update %d", first+uint64(i)))
	}
	f.after = chain.ExtendAll(before, f.updates)
	return f
}

func TestFrame(t *testing.T) {
	for _, n := range []int{1, 2, 1000} {
		f := makeFrame(7, 99, n)
		got, err := decodeFrame(7, encodeFrame(f))
		if err != nil || got.before != f.before || got.after != f.after || !slices.EqualFunc(got.updates, f.updates, bytes.Equal) {
			t.Errorf("%d updates: %+v, %v", n, got, err)
		}
	}
}

func TestFrameCutAndJoin(t *testing.T) {
	f := makeFrame(10, 5, 9)
	for seq := f.first; seq < f.next(); seq++ {
		for n := 1; n <= 9; n++ {
			part := f.from(seq).limit(n, 1<<20)
			if part.first != seq || part.before != chain.ExtendAll(5, f.updates[:seq-10]) ||
				part.after != chain.ExtendAll(part.before, part.updates) || len(part.updates) != min(n, int(f.next()-seq)) {
				t.Fatalf("from %d limit %d = %+v", seq, n, part)
			}
		}
	}
	if one := f.limit(1000, 1); len(one.updates) != 1 {
		t.Errorf("a limit below one update gives %d", len(one.updates))
	}
	head := f.limit(4, 1<<20)
	tail := f.from(14)
	if head.join(f.from(15), 100, 1<<20) || head.join(tail, 8, 1<<20) || head.join(tail, 100, 10) {
		t.Error("joined what does not follow or does not fit")
	}
	if !head.join(tail, 100, 1<<20) || head.after != f.after || head.next() != f.next() {
		t.Errorf("joined = %+v", head)
	}
	if len(f.updates) != 9 || string(f.updates[4]) != "update 14" {
		t.Error("joining changed the frame it was cut from")
	}
}

// Whatever is in the journal: an error or a frame whose chain is right.
func FuzzDecodeFrame(f *testing.F) {
	f.Add(encodeFrame(makeFrame(1, 0, 3)))
	f.Add([]byte("hF\x01\x00\xff\xff\xff\xff"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decodeFrame(1, b)
		if err != nil {
			return
		}
		if chain.ExtendAll(got.before, got.updates) != got.after || !bytes.Equal(append(encodeFrame(got)[:3:3], b[3:]...), append(b[:3:3], encodeFrame(got)[3:]...)) && b[3] == 0 {
			t.Errorf("decoded %+v of %x", got, b)
		}
	})
}
