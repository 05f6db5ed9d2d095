package spec

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzParse: Parse never panics, is all or nothing, places its errors inside
// the file, and what it reads is valid and survives the store.
func FuzzParse(f *testing.F) {
	golden, err := os.ReadFile("testdata/errors.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range strings.Split(string(golden), "\n=== ")[1:] {
		_, rest, _ := strings.Cut(c, "\n")
		file, _, _ := strings.Cut(rest, "\n>>>\n")
		f.Add([]byte(file))
	}
	f.Add([]byte(design))
	f.Add([]byte("---"))
	f.Add([]byte(`{"name":"x","steps":[{"command":["a\u0000"],"env":{"A":"\x41"}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse("f", data)
		if err != nil {
			if s != nil {
				t.Error("a spec besides the error")
			}
			// YAML ends lines in five ways, and what is missing at the end of a
			// file stands on the line behind it.
			lines := 2
			for _, end := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} {
				lines += strings.Count(string(data), end)
			}
			checkPlaces(t, err, lines)
			return
		}
		if err := s.Validate(); err != nil {
			t.Fatalf("parsed, but not valid: %v", err)
		}
		roundTrip(t, s)
	})
}

// checkPlaces checks that every problem has a place in the file.
func checkPlaces(t *testing.T, err error, lines int) {
	t.Helper()
	problems := []error{err}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		problems = many.Unwrap()
	}
	for _, p := range problems {
		var file *FileError
		if !errors.As(p, &file) {
			if strings.HasPrefix(p.Error(), "and ") {
				continue
			}
			t.Fatalf("no *FileError: %v", p)
		}
		if file.Line < 1 || file.Line > lines || file.Column < 1 || file.Expected == "" {
			t.Errorf("in %d lines: %v", lines, p)
		}
		if strings.ContainsAny(file.Error(), "\n\x00\x1b") {
			t.Errorf("not on one line: %q", file.Error())
		}
	}
}

// FuzzUnmarshal: what is read is valid, and is written as it was read.
func FuzzUnmarshal(f *testing.F) {
	data, err := full().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"v":1,"name":"x","retry":{},"steps":[{"name":"a","run":"make"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Unmarshal(data)
		if err != nil {
			return
		}
		first, err := s.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Unmarshal(first)
		if err != nil {
			t.Fatal(err)
		}
		second, err := again.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(first), string(second)); diff != "" {
			t.Error(diff)
		}
	})
}
