package journal

import (
	"bytes"
	"encoding/json"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
)

// FuzzClosedMark: whatever PATH.clean and the file hold, an open skips the
// verification only if the mark says what is in the file; the mark that was
// written vouches for the very bytes it was written for.
func FuzzClosedMark(f *testing.F) {
	path := filepath.Join(f.TempDir(), "journal.db")
	j, _, err := Open(f.Context(), Config{Path: path, Reserve: minReserve})
	if err != nil {
		f.Fatal(err)
	}
	if err := j.Close(); err != nil {
		f.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		f.Fatal(err)
	}
	if err := markClosedWhole(path, file, realOps(true)); err != nil {
		f.Fatal(err)
	}
	_, used, err := sumUsed(file)
	if err != nil {
		f.Fatal(err)
	}
	if err := file.Close(); err != nil {
		f.Fatal(err)
	}
	mark, err := os.ReadFile(path + ".clean")
	if err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	whole = whole[:used+4096]
	f.Add(mark, uint32(0), []byte{})
	f.Add(mark, uint32(used), []byte{1})
	f.Add(mark, uint32(16), []byte{1})
	f.Add(mark[:len(mark)-1], uint32(0), []byte{})
	f.Add([]byte("null"), uint32(0), []byte{})
	f.Fuzz(func(t *testing.T, other []byte, at uint32, patch []byte) {
		b := bytes.Clone(whole)
		copy(b[at%uint32(len(b)):], patch)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, m := range [][]byte{mark, other} {
			if err := os.WriteFile(path+".clean", m, 0o600); err != nil {
				t.Fatal(err)
			}
			var said closedMark
			_ = json.Unmarshal(m, &said)
			fits := said.Version == formatVersion && said.Bytes > 0 && said.Bytes <= int64(len(b)) && crc32.Checksum(b[:max(0, min(said.Bytes, int64(len(b))))], castagnoli) == said.CRC32C
			if got := closedWhole(path); got && !fits {
				t.Errorf("believed %s", m)
			} else if !got && bytes.Equal(m, mark) && bytes.Equal(b[:used], whole[:used]) {
				t.Error("not believed, though nothing has changed")
			}
		}
	})
}
