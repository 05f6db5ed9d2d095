package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const protocol = `# Protocol
- **P1 P-doc.** At the doc of a function.
- **P2 P-before.** Before a statement.
- **P3 P-beside.** Beside one.
- **P4 P-case.** Before a case.
- **P5 P-never.** In a branch that is not taken.
- **P6 P-type.** At a type.
- **P7 P-end.** At the end of a list.
`

const program = `package p

// T is a type: P-type.
type T int

// F obeys P-doc.
func F(n int) int {
	x := n // P-beside
	if n > 100 {
		// P-never
		return 7
	}
	// P-before
	x++
	switch n {
	// P-case
	case 1:
		x--
	case 2:
		x++
		// P-end
	}
	return x
}
`

const test = `package p

import "testing"

func TestF(t *testing.T) { F(1); F(2); F(2); F(3) }
`

// Each place of a rule has the count of the statement that it stands at.
func TestPlaces(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module holdfast\n\ngo 1.26\n", "proto/PROTOCOL.md": protocol, "p/p.go": program, "p/p_test.go": test,
	} {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	profile := filepath.Join(root, "cover")
	cmd := exec.Command("go", "test", "-covermode=count", "-coverprofile="+profile, "./p")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var out bytes.Buffer
	missed, err := run(&out, root, profile)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(missed, []string{"P-never", "P-type"}) {
		t.Errorf("missed %v", missed)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		words := strings.Fields(line)
		got = append(got, words[1]+" "+words[2])
	}
	want := []string{"HITS PLACES", "P-doc 4", "P-before 4", "P-beside 4", "P-case 1", "P-never 0", "P-type 0", "P-end 2"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q\n%s", got, want, out.String())
	}
}
