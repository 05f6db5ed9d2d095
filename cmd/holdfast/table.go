package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// column of a table. Its cells are cut to max characters; 0: as they are.
type column struct {
	title string
	max   int
	right bool
}

// table collects rows and prints them aligned.
type table struct {
	columns []column
	rows    [][]string
	indent  string
}

// add appends a row; cells are made safe and short here.
func (t *table) add(cells ...string) {
	row := make([]string, len(t.columns))
	for i := range row {
		row[i] = clean(cells[i])
		if limit := t.columns[i].max; limit > 0 {
			row[i] = cut(row[i], limit)
		}
	}
	t.rows = append(t.rows, row)
}

// print writes the titles and the rows.
func (t *table) print(out io.Writer) error {
	titles := make([]string, len(t.columns))
	widths := make([]int, len(t.columns))
	for i, c := range t.columns {
		titles[i] = c.title
		widths[i] = utf8.RuneCountInString(c.title)
		for _, row := range t.rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	w := bufio.NewWriter(out)
	for _, row := range append([][]string{titles}, t.rows...) {
		var line strings.Builder
		line.WriteString(t.indent)
		for i, cell := range row {
			if i > 0 {
				line.WriteString("  ")
			}
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if t.columns[i].right {
				line.WriteString(pad + cell)
			} else {
				line.WriteString(cell + pad)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
	return w.Flush()
}

// printJSON writes one document on one line.
func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// printJSONLines writes each document on a line of its own.
func printJSONLines[T any](out io.Writer, docs []T) error {
	w := bufio.NewWriter(out)
	for _, d := range docs {
		if err := printJSON(w, d); err != nil {
			return err
		}
	}
	return w.Flush()
}
