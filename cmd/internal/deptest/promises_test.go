package deptest

import (
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the pages that are made of others")

const (
	promisesFile = "docs/promises.md"
	figuresFile  = "docs/figures.tsv"
)

// promises are the rules that keep each of the guarantees P1 to P6. A rule may
// serve several of them.
var promises = []struct {
	guarantee string
	rules     []string
}{
	{"P1", []string{"P17", "P18", "P19", "P21", "P22", "P23", "P24", "P26", "P27", "P32", "P36", "P37", "P40", "P41", "P56"}},
	{"P2", []string{"P9", "P10", "P17", "P20", "P21", "P22", "P28", "P29", "P34", "P52"}},
	{"P3", []string{"P33", "P45", "P46", "P49", "P50", "P51", "P53"}},
	{"P4", []string{"P8", "P11", "P12", "P30", "P31", "P35", "P38", "P42", "P43", "P44", "P45", "P48", "P56"}},
	{"P5", []string{"P7", "P13", "P14", "P15", "P16", "P36", "P37", "P54", "P55", "P57", "P58"}},
	{"P6", []string{"P25", "P29", "P38", "P39", "P41", "P46", "P47"}},
}

// TestPromises: docs/promises.md says of each promise which rules keep it, which
// tests hold the product to them, and what those last measured. It is made of
// PROTOCOL.md and docs/figures.tsv, so that it cannot be out of date unseen.
func TestPromises(t *testing.T) {
	root := moduleRoot(t)
	text := readText(t, root, protocolFile)
	words := map[string]string{} // a guarantee in words
	for _, m := range regexp.MustCompile(`(?m)^- \*\*(P[1-6]) P-[a-z]+\.\*\* (.*)$`).FindAllStringSubmatch(text, -1) {
		words[m[1]] = m[2]
	}
	rows := map[string][]string{}
	serves := map[string]bool{}
	for _, row := range table(t, text, "| # | name | tests |") {
		rows[row[0]] = row
	}
	figures := figuresOf(t, root)

	var page strings.Builder
	page.WriteString(`# What is promised, and how it is shown

Made of [PROTOCOL.md](../proto/PROTOCOL.md) and [figures.tsv](figures.tsv) by ` + "`make figures`" + `, which also measures;
a test checks that it is up to date. Figures are of one machine with 2 processors and a virtual disk, each with the day
it was measured on. What users of other systems complain about has [a page of its own](complaints.md).
`)
	for _, p := range promises {
		if words[p.guarantee] == "" || rows[p.guarantee] == nil {
			t.Fatalf("PROTOCOL.md has no guarantee %s", p.guarantee)
		}
		fmt.Fprintf(&page, "\n## %s\n\n%s\n\n| rule | tests | last figures |\n|---|---|---|\n", p.guarantee, words[p.guarantee])
		for _, number := range append([]string{p.guarantee}, p.rules...) {
			row := rows[number]
			if row == nil {
				t.Errorf("%s is to keep %s, and there is no such rule", number, p.guarantee)
				continue
			}
			serves[number] = true
			fmt.Fprintf(&page, "| %s %s | %s | %s |\n", row[0], row[1], row[2], figuresIn(figures, row[2]))
		}
	}
	for number := range rows {
		if !serves[number] {
			t.Errorf("%s serves no promise", number)
		}
	}
	name := filepath.Join(root, filepath.FromSlash(promisesFile))
	if *update {
		if err := os.WriteFile(name, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if page.String() != readText(t, root, promisesFile) {
		t.Errorf("%s is not up to date: go test ./cmd/internal/deptest -run TestPromises -update makes it anew", promisesFile)
	}
}

// figure is a row of figures.tsv.
type figure struct{ name, test, value, measured string }

// figuresOf reads them; each must be told by a test that is there.
func figuresOf(t *testing.T, root string) []figure {
	t.Helper()
	tests := testsOf(t)
	var list []figure
	for i, line := range strings.Split(strings.TrimSpace(readText(t, root, figuresFile)), "\n") {
		cells := strings.Split(line, "\t")
		if len(cells) != 5 {
			t.Fatalf("%s: line %d has %d columns", figuresFile, i+1, len(cells))
		}
		if i == 0 {
			continue // the head
		}
		f := figure{cells[0], path.Base(cells[1]) + "." + cells[2], cells[3], cells[4]}
		if !tests[f.test] {
			t.Errorf("%s: there is no test %s", figuresFile, f.test)
		}
		if !regexp.MustCompile(`^\d{4}-\d\d-\d\d$`).MatchString(f.measured) || f.value == "-" {
			t.Errorf("%s: %q was never measured: make figures", figuresFile, f.name)
		}
		list = append(list, f)
	}
	if len(list) < 10 {
		t.Fatalf("found only %d figures: this test looks at nothing", len(list))
	}
	return list
}

// figuresIn are those that the tests of a cell have told.
func figuresIn(figures []figure, cell string) string {
	var list []string
	for _, f := range figures {
		if slices.Contains(strings.FieldsFunc(cell, func(r rune) bool { return strings.ContainsRune(",; ", r) }), f.test) {
			list = append(list, fmt.Sprintf("%s: %s (%s)", f.name, f.value, f.measured))
		}
	}
	return strings.Join(list, "; ")
}
