package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
)

// clean makes text safe for a terminal and for one line: what does not print
// is shown as an escape.
func clean(s string) string {
	ok := true
	for _, r := range s {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			ok = false
			break
		}
	}
	if ok {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	return b.String()
}

// cut shortens text to a number of characters.
func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	if width < 1 {
		return ""
	}
	n := 0
	for i := range s {
		if n == width-1 {
			return s[:i] + "…"
		}
		n++
	}
	return s
}

// stamp is a time in JSON: RFC 3339 with milliseconds and Z.
func stamp(us int64) string { return time.UnixMicro(us).UTC().Format("2006-01-02T15:04:05.000Z") }

// clock is a time for people, in their zone.
func clock(us int64) string {
	if us == 0 {
		return "-"
	}
	return time.UnixMicro(us).Local().Format("2006-01-02 15:04:05")
}

// span is a duration for people.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + span(-max(d, -math.MaxInt64)) // the least one has no opposite
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}

// between is the time from one moment to another, or to now while there is no
// other.
func between(fromUS, toUS int64, now time.Time) string {
	if fromUS == 0 {
		return "-"
	}
	if toUS == 0 {
		toUS = now.UnixMicro()
	}
	return span(time.Duration(max(toUS-fromUS, 0)) * time.Microsecond)
}

// sizeText is a number of bytes for people.
func sizeText(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// plural counts things.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// dash stands for nothing in a table.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
