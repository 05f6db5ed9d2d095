package spec

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

// durationForm and its parts are how build files write durations.
var (
	durationForm = regexp.MustCompile(`^(?:[0-9]+(?:\.[0-9]+)?(?:ms|[smhd]))+$`)
	durationPart = regexp.MustCompile(`([0-9.]+)(ms|[smhd])`)
)

// parseDuration reads 0 or a sum such as 1h30m. Days are 24 hours: a duration
// is measured, it knows no calendar. If it is not one, the hint says why.
func parseDuration(text string) (d time.Duration, hint string, ok bool) {
	if text == "0" {
		return 0, "", true
	}
	if !durationForm.MatchString(text) {
		return 0, durationHint(text), false
	}
	for _, part := range durationPart.FindAllStringSubmatch(text, -1) {
		number, unit := part[1], part[2]
		scale := time.Duration(1)
		if unit == "d" {
			unit, scale = "h", 24
		}
		p, err := time.ParseDuration(number + unit)
		if err != nil || p > MaxDuration/scale || d > MaxDuration-p*scale {
			return 0, "366d is the longest", false
		}
		d += p * scale
	}
	return d, "", true
}

// durationHint says what is wrong with a text that is no duration.
func durationHint(text string) string {
	if _, err := strconv.ParseFloat(text, 64); err == nil && !strings.HasPrefix(text, "-") {
		return "which unit? ms, s, m, h or d"
	}
	if strings.HasPrefix(text, "-") {
		return "not a negative one"
	}
	if strings.Contains(text, " ") {
		return "units are ms, s, m, h, d; no space between"
	}
	return "units are ms, s, m, h, d"
}
