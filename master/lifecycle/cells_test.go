package lifecycle

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestReturnTable writes down what becomes of every build state × attempt state
// × what the slave brings back (P-return, P-absent). No cell is empty;
// a changed cell is a changed promise.
func TestReturnTable(t *testing.T) {
	const file = "testdata/returns.tbl"
	var out strings.Builder
	words := words()
	var names []string
	for name := range words {
		for _, prefix := range []string{"return", "absent", "tombstone", "ended", "snapshot", "accepted", "refused", "end 1", "cancel", "dead", "lose", "diverged", "release"} {
			if strings.HasPrefix(name, prefix) && !strings.HasPrefix(name, "snapshot 2") {
				names = append(names, name)
				break
			}
		}
	}
	slices.Sort(names)
	for _, c := range cells() {
		r := c.make()
		fmt.Fprintf(&out, "# %s: %s\n", c.name, cellOf(r))
		for _, name := range names {
			r := c.make()
			was := cellOf(r)
			err := words[name](r)
			is := cellOf(r)
			if err == nil && is == was {
				is = "as it was"
			}
			if err != nil {
				_, what, _ := strings.Cut(err.Error(), ": ")
				is = "error: " + what
			}
			fmt.Fprintf(&out, "%-34s %s\n", name, is)
		}
		out.WriteString("\n")
	}
	t.Logf("figure: build, attempt, and what a slave brings back = %d cells", strings.Count(out.String(), "\n")-2*strings.Count(out.String(), "\n\n"))
	if *update {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != string(raw) {
		t.Errorf("%s differs; go test -run TestReturnTable -update shows what is new\n%s", file, firstDiff(got, string(raw)))
	}
}

// cellOf describes the build and attempt x.
func cellOf(r *Record) string {
	b, a := &r.Build, r.Attempt("x")
	s := fmt.Sprintf("build %s, attempt %s", b.State, a.State)
	if a.Cause != "" {
		s += " " + string(a.Cause)
	}
	if a.Outcome != "" {
		s += ", outcome " + string(a.Outcome)
	}
	if a.Slot {
		s += ", slot"
	}
	if a.Superseded {
		s += ", superseded"
	}
	if wish, _ := r.Want(a.ID); wish != WishNone {
		s += ", want " + string(wish)
	} else {
		s += ", released"
	}
	if b.TransientFailures > 0 {
		s += fmt.Sprintf(", failures %d", b.TransientFailures)
	}
	return s
}

// TestCurrent: the newest attempt that is not superseded.
func TestCurrent(t *testing.T) {
	for _, c := range cells() {
		r := c.make()
		want := r.Attempts[len(r.Attempts)-1]
		if want.Superseded {
			want = nil
		}
		if got := r.Current(); got != want {
			t.Errorf("%s: current is %v", c.name, got)
		}
	}
	if r := new(Record); r.Current() != nil {
		t.Error("a build without attempts has a current one")
	}
}
