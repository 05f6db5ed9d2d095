package main

import (
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	holdfastv1 "holdfast/proto/holdfast/v1"
)

// FuzzText: whatever a build, a slave or a person has written, people see it on one
// line and nothing of it acts on their terminal; what is shown of builds and
// events has as many lines as with harmless words.
func FuzzText(f *testing.F) {
	f.Add("ann's build", 3, int64(1))
	f.Add("\x1b[2J\x1b]0;title\x07", 80, int64(-1))
	f.Add("a\nb\r\u2028c\u202e\u0085", 4, int64(1)<<60)
	f.Add("\xff\xfe\u00ad\ufeff\U000e0001é", 0, int64(-1)<<63)
	f.Fuzz(func(t *testing.T, s string, width int, us int64) {
		shown := clean(s)
		for _, r := range shown {
			if !unicode.IsPrint(r) {
				t.Fatalf("%q is shown as %q", s, shown)
			}
		}
		if !utf8.ValidString(shown) || clean(shown) != shown {
			t.Errorf("%q is shown as %q", s, shown)
		}
		short := cut(shown, width)
		if n := utf8.RuneCountInString(short); n > max(width, 0) {
			t.Errorf("%q is cut to %d characters", shown, n)
		}
		if rest, ok := strings.CutSuffix(short, "…"); short != shown && short != "" && !(ok && strings.HasPrefix(shown, rest)) {
			t.Errorf("%q is cut to %q", shown, short)
		}
		for _, text := range []string{span(time.Duration(us)), between(us, us+1, time.Now()), sizeText(us), stamp(us), clock(us)} {
			if text == "" || clean(text) != text {
				t.Errorf("%d is shown as %q", us, text)
			}
		}
		if got, want := render(t, "x"+s, us), render(t, "xx", us); strings.Count(got, "\n") != strings.Count(want, "\n") {
			t.Errorf("%q adds lines:\n%s", s, got)
		}
	})
}

// render shows a build and an event with that text wherever somebody else can
// put one.
func render(t *testing.T, text string, us int64) string {
	step := &holdfastv1.Step{Number: 1, Name: text, State: "failed", Detail: text, LogState: "gap", StartedUs: us, DurationUs: us, LogBytes: us, ExitCode: proto.Int32(1)}
	b := &holdfastv1.Build{
		Id: "01J0000000000000000000000A", Name: text, State: "shelved", Cause: text, Detail: text, Reason: text, Submitter: text, CreatedUs: us, StartedUs: us, FinishedUs: -us,
		Attempts: []*holdfastv1.Attempt{{Number: 1, Slave: text, State: "failed", Cause: text, Detail: text, Outcome: text, FinishedUs: us, Steps: []*holdfastv1.Step{step}, LastLines: []string{text, text}}},
	}
	var out strings.Builder
	for _, err := range []error{showBuild(&out, b, time.UnixMicro(us)), showShelf(&out, []*holdfastv1.Build{b, b})} {
		if err != nil {
			t.Fatal(err)
		}
	}
	out.WriteString(eventLine(&holdfastv1.Event{N: 1, Topic: "build.queued", BuildId: text, Slave: text, Who: text, Why: text, Data: text}) + "\n" + stepResult(step) + "\n")
	for _, r := range out.String() {
		if !unicode.IsPrint(r) && r != '\n' {
			t.Fatalf("%q is shown with %q", text, r)
		}
	}
	return out.String()
}
