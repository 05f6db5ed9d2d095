package retry

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the answers in golden files")

// TestScenarios runs the scripts of testdata/decide.txt.
func TestScenarios(t *testing.T) {
	const path = "testdata/decide.txt"
	golden, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	intro, scripts, _ := strings.Cut(string(golden), "=== ")
	var out strings.Builder
	out.WriteString(intro)
	for i, script := range strings.Split(scripts, "\n=== ") {
		name, rest, _ := strings.Cut(script, "\n")
		if i > 0 {
			out.WriteString("\n")
		}
		out.WriteString("=== " + name + "\n")
		b := fakeBuild{}
		for line := range strings.Lines(rest) {
			if line = strings.TrimSuffix(line, "\n"); line == "" || line[0] == ' ' {
				continue
			}
			answer, err := b.do(line)
			if err != nil {
				t.Fatalf("%s: %s: %v", name, line, err)
			}
			out.WriteString(line + "\n" + answer)
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if out.String() != string(golden) {
		t.Errorf("answers differ; got:\n%s", out.String())
	}
}

// fakeBuild keeps the books that the master's store keeps.
type fakeBuild struct {
	policy      Policy
	history     History
	before      History  // as it was before the last end
	unsupported []string // slaves
}

// do carries one line of a script out and returns the answer.
func (b *fakeBuild) do(line string) (string, error) {
	words := strings.Fields(line)
	switch words[0] {
	case "policy":
		return "", b.setPolicy(words[1:])
	case "unshelve":
		b.history.Granted++
		return "", nil
	case "adopt":
		b.history = b.before
		return "", nil
	case "end":
		if len(words) < 4 {
			return "", fmt.Errorf("want: end CAUSE on SLAVE [accepted]")
		}
		return b.end(Outcome{Cause: Cause(words[1]), Slave: words[3], Accepted: slices.Contains(words, "accepted")}), nil
	}
	return "", fmt.Errorf("no such command")
}

// setPolicy reads k=v words on top of the defaults.
func (b *fakeBuild) setPolicy(words []string) error {
	b.policy = DefaultPolicy()
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch key {
		case "max":
			_, err = fmt.Sscan(value, &b.policy.MaxTransient)
		case "backoff":
			b.policy.Backoff.Base, err = time.ParseDuration(value)
		case "cap":
			b.policy.Backoff.Cap, err = time.ParseDuration(value)
		case "rerun":
			b.policy.Rerun = value
		default:
			err = fmt.Errorf("no such setting")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", word, err)
		}
	}
	return nil
}

// end books the end of an attempt as a caller has to, and decides.
func (b *fakeBuild) end(o Outcome) string {
	b.before = b.history
	if o.Counts() {
		b.history.TransientFailures++
	}
	if b.history.NeutralEnds++; o.Accepted {
		b.history.NeutralEnds = 0
	}
	if o.Cause == RefusedUnsupported && !slices.Contains(b.unsupported, o.Slave) {
		b.unsupported = append(b.unsupported, o.Slave)
	}
	b.history.UnsupportedOn = len(b.unsupported)
	d := Decide(b.policy, b.history, o, nil)
	if o.Counts() {
		b.history.LostOn = withSlave(b.history.LostOn, o.Slave)
	}
	answer := "  " + string(d.Action)
	switch d.Action {
	case Finish:
		answer += " " + string(d.State)
	case Retry:
		answer += fmt.Sprintf(" after %v", d.Delay)
	}
	if len(d.Avoid) > 0 {
		answer += " avoiding " + strings.Join(d.Avoid, " ")
	}
	return answer + "\n    " + d.Reason + "\n"
}
