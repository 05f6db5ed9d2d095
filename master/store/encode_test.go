package store

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/master/lifecycle"
	"holdfast/retry"
)

func TestEncodeUpdates(t *testing.T) {
	for _, updates := range [][][]byte{nil, {{}}, {[]byte("a")}, {[]byte("a"), {}, bytes.Repeat([]byte("b"), 300)}} {
		got, err := DecodeUpdates(EncodeUpdates(updates))
		if err != nil || len(got) != len(updates) {
			t.Fatalf("%v: %v", got, err)
		}
		for i := range got {
			if !bytes.Equal(got[i], updates[i]) {
				t.Errorf("update %d is %q", i, got[i])
			}
		}
	}
	for _, bad := range [][]byte{{5, 'a'}, {0x80}, bytes.Repeat([]byte{0xff}, 12)} {
		if _, err := DecodeUpdates(bad); err == nil {
			t.Errorf("%x was decoded", bad)
		}
	}
}

func TestCutMarks(t *testing.T) {
	marks := []TimeMark{{0, 100, 1}, {5, 200, 2}, {9, 300, 1}}
	for n, want := range map[int][]TimeMark{
		0:  marks,
		3:  {{0, 100, 1}, {2, 200, 2}, {6, 300, 1}},
		5:  {{0, 200, 2}, {4, 300, 1}},
		7:  {{0, 200, 2}, {2, 300, 1}},
		9:  {{0, 300, 1}},
		20: {{0, 300, 1}},
	} {
		if diff := cmp.Diff(want, CutMarks(marks, n)); diff != "" {
			t.Errorf("cut %d (-want +got):\n%s", n, diff)
		}
	}
}

func TestEncodePolicy(t *testing.T) {
	for _, p := range []lifecycle.Policy{
		{},
		{Retry: retry.DefaultPolicy()},
		{LostAfterSet: true},
		{LostAfterSet: true, LostAfter: time.Hour, LostNever: true, StopOnSlaveAfter: time.Minute, Priority: -5, Requires: map[string]string{"a": "b"}},
	} {
		got, err := DecodePolicy(EncodePolicy(p))
		if diff := cmp.Diff(p, got); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	}
	if _, err := DecodePolicy("nonsense"); err == nil {
		t.Error("nonsense was decoded")
	}
}

func FuzzDecodeUpdates(f *testing.F) {
	f.Add(EncodeUpdates([][]byte{[]byte("one"), {}, []byte("three")}))
	f.Fuzz(func(t *testing.T, data []byte) {
		updates, err := DecodeUpdates(data)
		if err != nil {
			return
		}
		again, err := DecodeUpdates(EncodeUpdates(updates))
		if err != nil || len(again) != len(updates) {
			t.Fatalf("%d updates, then %d: %v", len(updates), len(again), err)
		}
	})
}

func FuzzDecodeMarks(f *testing.F) {
	f.Add(EncodeMarks([]TimeMark{{0, 1700000000000000, 1}, {7, 1700000000000005, 2}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		marks, err := DecodeMarks(data)
		if err != nil {
			return
		}
		again, err := DecodeMarks(EncodeMarks(marks))
		if diff := cmp.Diff(marks, again); diff != "" || err != nil {
			t.Fatalf("%v\n%s", err, diff)
		}
	})
}
