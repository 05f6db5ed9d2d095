package link

import (
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"
)

// Bounds of what a slave may say. Numbers stay far from where a sum could
// overflow, or a column could not hold them.
const (
	maxSeq    = 1 << 62
	maxOffset = 1 << 62
	maxIDSize = 64      // of what should be an id, in evidence
	maxDetail = 4 << 10 // of words; the raw update keeps them all
	maxWord   = 100     // of a cause, a topic
	maxSteps  = 1000    // of a snapshot; see package spec
)

// validID reports whether an id that came from outside has the form of one.
func validID(id string) bool {
	_, err := ulid.ParseStrict(id)
	return err == nil
}

// clip cuts s to at most n bytes, at a character's boundary.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// text makes words fit for a column and for people: bounded, and without NUL,
// which databases do not take. The wire has checked that they are UTF-8.
func text(s string, n int) string {
	return strings.ReplaceAll(clip(s, n), "\x00", "\uFFFD")
}

// fromMicros reads a wire time; 0 is the zero time.
func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// micros reads a wire duration; what no clock can have measured is cut off.
func micros(us int64) time.Duration {
	return time.Duration(min(max(us, 0), math.MaxInt64/1000)) * time.Microsecond
}
