package runner

import (
	"strings"
	"unicode/utf8"
)

const (
	maxDetail = 2 << 10 // bytes of a detail or reason
	maxNames  = 20      // processes named in one record
	maxName   = 64      // bytes of a process's name
)

// cut shortens text to at most limit bytes of valid UTF-8.
func cut(text string, limit int) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}
