package journal

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// closedMark is PATH.clean, written when a journal was closed whole. It vouches for exact bytes: the file up to its
// high water. An open that finds them unchanged may skip the verification; reading them needs no memory map and
// cannot fault. No mark, a torn one, one that does not fit: verify. So the mark itself needs no protection.
type closedMark struct {
	Version int    `json:"version"`
	Bytes   int64  `json:"bytes"`
	CRC32C  uint32 `json:"crc32c"`
}

func markClosedWhole(path string, file *os.File, o ops) error {
	sum, n, err := sumUsed(file)
	if err != nil {
		return fmt.Errorf("mark clean: %w", err)
	}
	b, err := json.Marshal(closedMark{Version: formatVersion, Bytes: n, CRC32C: sum})
	if err != nil {
		return err
	}
	err = writeMark(path+".clean", b, o)
	if err == nil || isNoSpace(err) {
		return nil // without a mark the next open takes longer, that is all
	}
	return fmt.Errorf("mark clean: %w", err)
}

func writeMark(path string, b []byte, o ops) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = o.sync(f)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// closedWhole: the file is byte for byte what was closed.
func closedWhole(path string) bool {
	b, err := os.ReadFile(path + ".clean")
	if err != nil {
		return false
	}
	var m closedMark
	if json.Unmarshal(b, &m) != nil || m.Version != formatVersion {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	sum, n, err := sumUsed(f)
	return err == nil && n == m.Bytes && sum == m.CRC32C
}

// sumUsed is the CRC-32C of the pages up to the high water.
func sumUsed(f *os.File) (uint32, int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	m, err := readMeta(f, info.Size())
	if err != nil {
		return 0, 0, err
	}
	h := crc32.New(castagnoli)
	n, err := io.Copy(h, io.NewSectionReader(f, 0, int64(m.highWater)*int64(m.pageSize)))
	return h.Sum32(), n, err
}
