package spec

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrNewerVersion is returned by Unmarshal for a spec that a newer holdfast
// wrote. Nothing is wrong with it: let a newer master handle the build.
var ErrNewerVersion = errors.New("spec was written by a newer version of holdfast")

// FieldError says what is wrong with one value of a spec.
type FieldError struct {
	// Path names the value, as steps[1].timeout; empty: the whole spec.
	Path string
	// Expected says what would have been right.
	Expected string
	// Found is what was there, shortened.
	Found string
	// Hint, if any, proposes what may have been meant.
	Hint string

	// onKey: it is the key of Path, not its value, that is wrong.
	onKey bool
}

// Error returns the problem on one line.
func (e *FieldError) Error() string {
	var b strings.Builder
	if e.Path != "" {
		b.WriteString(e.Path)
		b.WriteString(": ")
	}
	b.WriteString("expected ")
	b.WriteString(e.Expected)
	if e.Found != "" {
		b.WriteString(", found ")
		b.WriteString(e.Found)
	}
	if e.Hint != "" {
		b.WriteString(" (")
		b.WriteString(e.Hint)
		b.WriteString(")")
	}
	return b.String()
}

// FileError is a FieldError at a place in a build file. Line and Column count
// from 1; Column counts characters.
type FileError struct {
	File   string
	Line   int
	Column int
	FieldError
}

// Error returns file:line:column and the problem, on one line.
func (e *FileError) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.FieldError.Error())
}

// Unwrap returns the problem without its place.
func (e *FileError) Unwrap() error { return &e.FieldError }

// maxProblems bounds what one file or spec is told about itself.
const maxProblems = 20

// maxKept bounds what the checker keeps of the problems of one spec.
const maxKept = 10_000

// join makes one error, one line each, of the problems, and says how many more
// there are.
func join[E error](problems []E) error {
	var errs []error
	for i, p := range problems {
		if i == maxProblems {
			errs = append(errs, fmt.Errorf("and %d more problems", len(problems)-maxProblems))
			break
		}
		errs = append(errs, p)
	}
	return errors.Join(errs...)
}

// quote shows text found in a spec: quoted, on one line, not too long.
func quote(text string) string {
	const most = 60
	runes := 0
	for i := range text {
		if runes == most {
			return strconv.Quote(text[:i]) + "…"
		}
		runes++
	}
	return strconv.Quote(text)
}

// child appends a key of a mapping to a path. Keys that are not plain words are
// quoted, so that a path is always one line.
func child(parent, key string) string {
	if !isPlainKey(key) {
		return fmt.Sprintf("%s[%s]", parent, quote(key))
	}
	if parent == "" {
		return key
	}
	return parent + "." + key
}

// isPlainKey reports whether a key can stand in a path as it is.
func isPlainKey(key string) bool {
	for i := range len(key) {
		if c := key[i]; !isAlnum(c) && c != '_' && c != '-' {
			return false
		}
	}
	return key != "" && len(key) <= MaxLabelKey
}

// element appends an index of a list to a path.
func element(parent string, i int) string { return fmt.Sprintf("%s[%d]", parent, i) }
