package chaos

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"holdfast/proto/chain"
)

// lineHead is a line's number, its check and two blanks.
const lineHead = 7 + 1 + 8 + 1

// maxWidth is how much filling a line has at most.
const maxWidth = 120

var filling = strings.Repeat("abcdefghijklmnopqrstuvwxyz", 2+maxWidth/26)

// appendLine appends line n (from 1) of a step: its number, a check over step
// and number, and some filling, all of which follow from the two. So whoever
// has the step's id knows every line without having been told.
func appendLine(b []byte, step string, n, width int) []byte {
	sum := chain.Sum([]byte(step + "/" + strconv.Itoa(n)))
	b = fmt.Appendf(b, "%07d %08x ", n, sum)
	from := int(sum % 26)
	b = append(b, filling[from:from+min(width+int(sum%17), maxWidth)]...)
	return append(b, '\n')
}

// difference is the first place where a log is not what the step wrote.
type difference struct {
	at   int64
	what string // what became of the line: lost, doubled, swapped or changed
	line int
}

// compareLines reads a stored log against the lines of a step. The log may end
// anywhere, in a line too. Holes are parts that are known to be gone; nothing is
// said of what is in them. It returns nil if there is no difference.
func compareLines(step string, width int, log []byte, holes []hole) *difference {
	var want []byte
	for at, n := 0, 1; at < len(log); n++ {
		want = appendLine(want[:0], step, n, width)
		end := min(at+len(want), len(log))
		if !equalBut(log[at:end], want[:end-at], int64(at), holes) {
			return classify(step, width, log, at, n)
		}
		at = end
	}
	return nil
}

// hole is a part of a log that is gone and known to be.
type hole struct{ from, to int64 }

func equalBut(got, want []byte, at int64, holes []hole) bool {
	if bytes.Equal(got, want) {
		return true
	}
	for i := range got {
		if got[i] == want[i] {
			continue
		}
		known := false
		for _, h := range holes {
			known = known || at+int64(i) >= h.from && at+int64(i) < h.to
		}
		if !known {
			return false
		}
	}
	return true
}

// classify looks at what stands where line n should: an earlier line is there
// twice, a later one means that n is lost, or comes later.
func classify(step string, width int, log []byte, at, n int) *difference {
	d := &difference{at: int64(at), line: n, what: "changed"}
	rest := log[at:]
	whole := rest
	if i := bytes.IndexByte(rest, '\n'); i >= 0 {
		whole = rest[:i+1]
	}
	if len(whole) < lineHead {
		return d
	}
	m, err := strconv.Atoi(string(whole[:7]))
	if err != nil || m == n || !bytes.HasPrefix(appendLine(nil, step, m, width), whole) {
		// The middle of a line: is line n there at all?
		if bytes.Contains(rest, appendLine(nil, step, n, width)) {
			d.what = "doubled"
		} else if bytes.Contains(rest, appendLine(nil, step, n+1, width)) && len(rest) < len(appendLine(nil, step, n, width)) {
			d.what = "lost"
		}
		return d
	}
	switch {
	case m < n:
		d.what = "doubled"
	case bytes.Contains(rest, appendLine(nil, step, n, width)):
		d.what = "swapped"
	default:
		d.what = "lost"
	}
	return d
}

// bytesOf is how many bytes, and of which CRC, the first lines of a step are.
func bytesOf(step string, width, lines int) (n int64, crc uint32) {
	var line []byte
	for i := 1; i <= lines; i++ {
		line = appendLine(line[:0], step, i, width)
		n += int64(len(line))
		crc = crc32.Update(crc, chain.Table, line)
	}
	return n, crc
}
