package spec

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Parse reads a build file. Filename is used in errors only. The error joins a
// *FileError for each problem found, in the order of the file; with an error
// there is no Spec.
func Parse(filename string, data []byte) (*Spec, error) {
	if len(data) > MaxBytes {
		return nil, whole(filename, 1, 1, fmt.Sprintf("a build file of at most %d bytes", MaxBytes), fmt.Sprint(len(data)))
	}
	if err := checkEncoding(filename, data); err != nil {
		return nil, err
	}
	root, err := decodeOne(filename, data)
	if err != nil {
		return nil, err
	}
	r := newReader(filename)
	if r.refuseSpecials(root); len(r.problems) > 0 {
		return nil, join(r.problems)
	}
	s := r.spec(root)
	if root.Kind != yaml.MappingNode {
		return nil, join(r.problems) // nothing in it can be checked
	}
	s.SetDefaults()
	c := checker{}
	c.spec(s)
	r.place(c.problems)
	if len(r.problems) > 0 {
		slices.SortStableFunc(r.problems, func(a, b *FileError) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
		})
		return nil, join(r.problems)
	}
	return s, nil
}

// whole is a problem with the file as such.
func whole(filename string, line, column int, expected, found string) *FileError {
	return &FileError{File: filename, Line: line, Column: column, FieldError: FieldError{Expected: expected, Found: found}}
}

// checkEncoding finds the first byte that is not text. The YAML parser would
// guess at UTF-16, and says less clearly where it stopped.
func checkEncoding(filename string, data []byte) error {
	line, column := 1, 0
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		column++
		switch {
		case r == utf8.RuneError && size == 1:
			return whole(filename, line, column, "text in UTF-8", fmt.Sprintf("the byte 0x%02x", data[i]))
		case r == '\n':
			line, column = line+1, 0
		case r < ' ' && r != '\t' && r != '\r':
			return whole(filename, line, column, "text", fmt.Sprintf("the control character 0x%02x", r))
		}
		i += size
	}
	return nil
}

// decodeOne returns the root value of the one document in data.
func decodeOne(filename string, data []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, whole(filename, 1, 1, "a build with name and steps", "an empty file")
	} else if err != nil {
		return nil, syntaxError(filename, data, err)
	}
	var next yaml.Node
	if err := dec.Decode(&next); err == nil {
		return nil, whole(filename, max(next.Line, 1), max(next.Column, 1), "one document", "a second one")
	} else if !errors.Is(err, io.EOF) {
		return nil, syntaxError(filename, data, err)
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil, whole(filename, 1, 1, "a build with name and steps", "an empty document")
	}
	return doc.Content[0], nil
}

// lookAhead is how many characters the YAML scanner reads beyond the one it is
// about to judge.
const lookAhead = 3

// yamlLine matches what the YAML package puts before its messages.
var yamlLine = regexp.MustCompile(`^yaml: (line [0-9]+: )?`)

// syntaxError places an error of the YAML package. Its errors have no type and
// at best a line, which may be that where the broken thing began, or the one
// before. So the file is read once more, byte by byte: where the parser stops
// reading is where a person should look.
func syntaxError(filename string, data []byte, err error) error {
	in := &byteReader{data: data}
	dec := yaml.NewDecoder(in)
	for again := error(nil); again == nil; {
		var doc yaml.Node
		again = dec.Decode(&doc)
	}
	read, column := data[:in.next], 0
	if in.next == len(data) {
		read, column = bytes.TrimRight(read, " \t\r\n"), 1 // just behind the last word
	} else {
		for range lookAhead {
			_, size := utf8.DecodeLastRune(read)
			read = read[:len(read)-size]
		}
	}
	line := 1 + bytes.Count(read, []byte("\n"))
	column = max(1, column+utf8.RuneCount(read[bytes.LastIndexByte(read, '\n')+1:]))
	return whole(filename, line, column, "YAML", "a syntax error: "+yamlLine.ReplaceAllString(err.Error(), ""))
}

// byteReader hands out one byte at a time and so knows how far its reader got.
type byteReader struct {
	data []byte
	next int
}

// Read implements io.Reader.
func (r *byteReader) Read(p []byte) (int, error) {
	if r.next == len(r.data) {
		return 0, io.EOF
	}
	n := copy(p, r.data[r.next:min(r.next+1, len(r.data))])
	r.next += n
	return n, nil
}

// newReader returns a reader without problems.
func newReader(filename string) *reader {
	return &reader{
		file:   filename,
		keys:   map[string]*yaml.Node{},
		values: map[string]*yaml.Node{},
		broken: map[string]bool{},
	}
}

// place adds the checker's problems to those of the reader, with positions. A
// value that could not be read has been reported already: what the checker
// says about it, or about what it is part of, would be noise.
func (r *reader) place(problems []*FieldError) {
	for _, p := range problems {
		if r.broken[p.Path] {
			continue
		}
		node := r.values[p.Path]
		if node == nil && !p.onKey && p.Found == `""` {
			p.Found = "nothing"
		}
		if p.onKey {
			node = r.keys[p.Path]
		}
		for at := p.Path; node == nil && at != ""; {
			at = at[:max(strings.LastIndexAny(at, ".["), 0)]
			node = r.values[at]
		}
		e := &FileError{File: r.file, Line: 1, Column: 1, FieldError: *p}
		if node != nil {
			e.Line, e.Column = node.Line, node.Column
		}
		r.problems = append(r.problems, e)
	}
}
