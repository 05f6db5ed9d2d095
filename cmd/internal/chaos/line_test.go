package chaos

import (
	"bytes"
	"testing"
)

// What became of a line can be told from the log alone.
func TestCompareLines(t *testing.T) {
	const step, width, lines = "01BX5ZZKBKACTAV9WEVGEMMVRZ", 30, 40
	var log []byte
	var starts []int
	for n := 1; n <= lines; n++ {
		starts = append(starts, len(log))
		log = appendLine(log, step, n, width)
	}
	line := func(n int) []byte { return appendLine(nil, step, n, width) }
	change := func(at int) []byte {
		b := bytes.Clone(log)
		b[at] ^= 1
		return b
	}
	for _, tc := range []struct {
		name  string
		log   []byte
		holes []hole
		want  string
	}{
		{"as written", log, nil, ""},
		{"nothing yet", nil, nil, ""},
		{"ends within a line", log[:starts[7]+11], nil, ""},
		{"a line is gone", append(bytes.Clone(log[:starts[3]]), log[starts[4]:]...), nil, "lost"},
		{"the first line is gone", log[starts[1]:], nil, "lost"},
		{"a line is there twice", append(append(bytes.Clone(log[:starts[4]]), line(4)...), log[starts[4]:]...), nil, "doubled"},
		{"two lines are swapped", append(append(append(bytes.Clone(log[:starts[3]]), line(5)...), line(4)...), log[starts[5]:]...), nil, "swapped"},
		{"a bit of a number", change(starts[5]), nil, "changed"},
		{"a bit of the filling", change(starts[6] - 2), nil, "changed"},
		{"in a hole", change(starts[5] + 20), []hole{{int64(starts[5]), int64(starts[6])}}, ""},
		{"beside a hole", change(starts[5] + 20), []hole{{int64(starts[6]), int64(starts[7])}}, "changed"},
		{"a line is gone, and the end of the next", append(bytes.Clone(log[:starts[3]]), change(starts[5] - 1)[starts[4]:]...), nil, "changed"},
		{"another step's", appendLine(nil, "01BX5ZZKBKACTAV9WEVGEMMVS0", 1, width), nil, "changed"},
	} {
		got := ""
		if d := compareLines(step, width, tc.log, tc.holes); d != nil {
			got = d.what
		}
		if got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
	if n, _ := bytesOf(step, width, lines); n != int64(len(log)) {
		t.Errorf("%d lines are %d bytes, want %d", lines, n, len(log))
	}
}
