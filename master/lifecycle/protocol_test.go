package lifecycle

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestProtocolArrows: PROTOCOL.md draws exactly the arrows that the code has.
func TestProtocolArrows(t *testing.T) {
	raw, err := os.ReadFile("../../proto/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(raw), "State machines\n")
	if !ok {
		t.Fatal("PROTOCOL.md has no chapter on state machines")
	}
	for heading, table := range map[string][]Arrow{
		"Build": BuildArrows, "Attempt (store)": AttemptArrows, "Step": StepArrows, "Log": LogArrows,
	} {
		_, part, ok := strings.Cut(text, "\n"+heading+"\n|")
		if !ok {
			t.Errorf("PROTOCOL.md has no table %s", heading)
			continue
		}
		part, _, _ = strings.Cut(part, "\n\n")
		var drawn []Arrow
		for row := range strings.Lines(part) {
			cells := strings.Split(strings.Trim(strings.TrimSpace(row), "|"), "|")
			if len(cells) != 3 {
				t.Errorf("%s: odd row %q", heading, row)
				continue
			}
			a := Arrow{strings.TrimSpace(cells[0]), strings.TrimSpace(cells[1]), strings.TrimSpace(cells[2])}
			if a.From == "from" || strings.HasPrefix(a.From, "---") {
				continue
			}
			a.From = strings.TrimPrefix(a.From, "–")
			drawn = append(drawn, a)
		}
		if !slices.Equal(drawn, table) {
			t.Errorf("%s: PROTOCOL.md and the code differ:\n%v\n%v", heading, drawn, table)
		}
	}
}
