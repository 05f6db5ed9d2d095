//go:build linux

package postgres_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/journal/journaltest"
	"holdfast/master/store"
	"holdfast/master/store/pgtest"
	"holdfast/master/store/postgres"
)

// TestFullDisk: on a full disk commits are held, lose nothing, and go on once there
// is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	pgtest.Need(t)
	disk, err := journaltest.SmallDisk(t, "tmpfs", 256)
	if err != nil {
		journaltest.SkipOrFail(t, err.Error())
	}
	// The server is another user.
	if err := os.Chmod(filepath.Dir(disk), 0o755); err != nil {
		t.Fatal(err)
	}
	c := cluster(t, pgtest.Config{In: disk})
	url := database(t, c, "holdfast")
	s := open(t, postgres.Config{URL: url})
	session, v := running(t, s, "one")
	conn := connect(t, url)
	before := dump(t, conn)

	filler := filepath.Join(disk, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, unix.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
	text := make([]byte, 256<<10)
	for i := range text {
		text[i] = byte(i * i >> 8)
	}
	ops := []store.Op{logOf(session, v, text)}
	for i := range 20 {
		ops = append(ops, submission(fmt.Sprint("b", i)))
	}
	for range 3 {
		held(t, "commit to a full disk", s.Commit(t.Context(), ops...), store.ErrFull)
	}
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("not ready: %v", err)
	}
	if after := dump(t, conn); after != before {
		t.Errorf("the store holds\n%s\nwas\n%s", after, before)
	}
	// What needs no more room than there is in the pages goes on.
	small := statusOf(session, v, nil)
	if err := s.Commit(t.Context(), small); err != nil || small.Err != nil {
		t.Errorf("a small commit: %v %v", err, small.Err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := s.Commit(t.Context(), ops...); err != nil || ops[0].(*store.ApplyLog).Err != nil {
		t.Fatalf("commit once there is room: %v %v", err, ops[0].(*store.ApplyLog).Err)
	}
	chunks, err := s.Log(t.Context(), v.step, 0, 1<<20)
	if err != nil || len(chunks) != 1 || string(chunks[0].Data) != string(text) {
		t.Errorf("%d chunks, %v", len(chunks), err)
	}
	if list, err := s.Builds(t.Context(), store.BuildFilter{}); err != nil || len(list) != 21 {
		t.Errorf("%d builds, %v", len(list), err)
	}
}
