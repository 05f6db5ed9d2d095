package spec

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Validate checks a spec that did not come from a file. The error joins a
// *FieldError for each problem found.
func (s *Spec) Validate() error {
	c := checker{}
	c.spec(s)
	return join(c.problems)
}

// checker collects what is wrong with a spec. All rules about values live in
// its methods; the reader knows only the types.
type checker struct {
	problems []*FieldError
	// bytes of text seen so far, for the limit on all of it.
	bytes int
}

// add notes a problem with the value at a path.
func (c *checker) add(at, expected, found string) {
	c.note(&FieldError{Path: at, Expected: expected, Found: found})
}

// addKey notes a problem with the key at a path.
func (c *checker) addKey(at, expected, found string) {
	c.note(&FieldError{Path: at, Expected: expected, Found: found, onKey: true})
}

// note keeps a problem. One message has room for half a million of them, and
// nobody reads more than the first few.
func (c *checker) note(e *FieldError) {
	if len(c.problems) < maxKept {
		c.problems = append(c.problems, e)
	}
}

// spec checks the whole.
func (c *checker) spec(s *Spec) {
	if want := printable(s.Name, MaxName); want != "" {
		c.add("name", want, quote(s.Name))
	}
	c.text("reason", s.Reason, MaxReason)
	c.requires(s.Requires)

	c.within("retry.max_transient", s.Retry.MaxTransient, 0, MaxTransientLimit)
	c.duration("retry.backoff", s.Retry.Backoff)
	c.duration("retry.backoff_cap", s.Retry.BackoffCap)
	if s.Retry.BackoffCap < s.Retry.Backoff {
		c.add("retry.backoff_cap", fmt.Sprintf("at least the backoff of %v", s.Retry.Backoff), s.Retry.BackoffCap.String())
	}
	c.duration("lost_after", s.LostAfter.After)
	if l := s.LostAfter; l.After != 0 && (!l.Set || l.Never) || l.Never && !l.Set {
		c.add("lost_after", "one of: nothing, never, or a duration", fmt.Sprintf("%+v", l))
	}
	c.duration("stop_on_slave_after", s.StopOnSlaveAfter)

	c.oneOf("rerun", s.Rerun, RerunAuto, RerunNever)
	c.oneOf("workspace", s.Workspace, WorkspaceAttempt, WorkspaceKept)
	c.within("priority", s.Priority, MinPriority, MaxPriority)
	c.steps(s.Steps)
	if c.bytes > MaxBytes {
		c.add("", fmt.Sprintf("at most %d bytes of text in all", MaxBytes), fmt.Sprint(c.bytes))
	}
}

// requires checks the labels, in order, so that errors always come in the same.
func (c *checker) requires(labels map[string]string) {
	if len(labels) > MaxLabels {
		c.add("requires", fmt.Sprintf("at most %d labels", MaxLabels), fmt.Sprint(len(labels)))
		return
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		at := child("requires", key)
		if !ValidLabelKey(key) {
			c.addKey(at, fmt.Sprintf("a label of at most %d letters, digits and . _ - / that begins and ends with a letter or digit", MaxLabelKey), quote(key))
		}
		if want := printable(labels[key], MaxLabelValue); want != "" {
			c.add(at, want, quote(labels[key]))
		}
	}
}

// text checks free text: it travels through UTF-8 columns and C strings.
func (c *checker) text(at, text string, maxBytes int) {
	c.bytes += len(text)
	switch {
	case len(text) > maxBytes:
		c.add(at, fmt.Sprintf("at most %d bytes", maxBytes), fmt.Sprint(len(text)))
	case !utf8.ValidString(text):
		c.add(at, "text in UTF-8", quote(text))
	case strings.ContainsRune(text, 0):
		c.add(at, "text without NUL", quote(text))
	}
}

// duration checks the range, and that the wire's microseconds can carry it.
func (c *checker) duration(at string, d time.Duration) {
	switch {
	case d < 0:
		c.add(at, "a duration that is not negative", d.String())
	case d > MaxDuration:
		c.add(at, fmt.Sprintf("a duration of at most %d days", MaxDuration/(24*time.Hour)), d.String())
	case d%time.Microsecond != 0:
		c.add(at, "a duration of whole microseconds", d.String())
	}
}

// within checks the range of a number.
func (c *checker) within(at string, n, least, most int) {
	if n < least || n > most {
		c.add(at, fmt.Sprintf("a number from %d to %d", least, most), fmt.Sprint(n))
	}
}

// oneOf checks a word of a closed set; empty means the first.
func (c *checker) oneOf(at, word string, set ...string) {
	if word != "" && !slices.Contains(set, word) {
		c.note(&FieldError{Path: at, Expected: strings.Join(set, " or "), Found: quote(word), Hint: didYouMean(word, set)})
	}
}

// printable returns what is wrong with a name for people, or "": it has to fit
// on one line of a table and be told apart from others by eye.
func printable(text string, most int) string {
	ok := text != "" && utf8.ValidString(text) && utf8.RuneCountInString(text) <= most &&
		strings.TrimSpace(text) == text && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
	if ok {
		return ""
	}
	return fmt.Sprintf("1 to %d printable characters without space around them", most)
}

// ValidLabelKey reports whether key can name a label, in a spec as on a slave.
func ValidLabelKey(key string) bool {
	if key == "" || len(key) > MaxLabelKey || !isAlnum(key[0]) || !isAlnum(key[len(key)-1]) {
		return false
	}
	for i := range len(key) {
		if c := key[i]; !isAlnum(c) && !strings.ContainsRune("._-/", rune(c)) {
			return false
		}
	}
	return true
}

// isAlnum reports whether c is an ASCII letter or digit.
func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
