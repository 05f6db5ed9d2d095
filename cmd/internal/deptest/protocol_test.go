package deptest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The documents that promise something, with a table of tests each.
const (
	protocolFile   = "proto/PROTOCOL.md"
	complaintsFile = "docs/complaints.md"
)

// contractSuite holds tests that are no functions of their own: the cases that
// every store must pass.
const contractSuite = "master/store/storetest"

// TestProtocolTests holds PROTOCOL.md to its word that a rule without a test is
// a bug: every rule has a row, and every test that a row names is there.
func TestProtocolTests(t *testing.T) {
	root, tests := moduleRoot(t), testsOf(t)
	text := readText(t, root, protocolFile)

	rules := map[string]string{} // name by number
	for _, m := range regexp.MustCompile(`(?m)^- \*\*(P\d+) (P-[a-z-]+)\.\*\*`).FindAllStringSubmatch(text, -1) {
		if rules[m[1]] != "" {
			t.Errorf("%s is defined twice", m[1])
		}
		rules[m[1]] = m[2]
	}
	// P54 is a chapter.
	if m := regexp.MustCompile(`(?m)^## \d+\. Versions \((P\d+)\)$`).FindStringSubmatch(text); m != nil {
		rules[m[1]] = "P-version"
	}
	if len(rules) < 50 {
		t.Fatalf("found only the rules %v: this test looks at nothing", rules)
	}

	rows := table(t, text, "| # | name | tests |")
	for i, row := range rows {
		number, name := row[0], row[1]
		if want := "P" + strconv.Itoa(i+1); number != want {
			t.Errorf("row %d is %s, not %s: rows are in order, one for each rule", i+1, number, want)
		}
		switch {
		case rules[number] == "":
			t.Errorf("%s %s has a row and no definition", number, name)
		case rules[number] != name:
			t.Errorf("%s is called %s in its row and %s where it is defined", number, name, rules[number])
		}
		named, later := tests.cell(t, number, row[2])
		if named == 0 && !later {
			t.Errorf(`%s %s names no test and does not say that it comes later`, number, name)
		}
		delete(rules, number)
	}
	for number, name := range rules {
		t.Errorf("%s %s is defined and has no row", number, name)
	}
}

// TestComplaintTests: the same for the complaints that must not be heard here.
func TestComplaintTests(t *testing.T) {
	root, tests := moduleRoot(t), testsOf(t)
	rows := table(t, readText(t, root, complaintsFile), "| complaint | what must hold | tests |")
	var names []string
	for _, row := range rows {
		name := strings.Trim(row[0], "`")
		names = append(names, name)
		if named, _ := tests.cell(t, name, row[2]); named == 0 {
			t.Errorf("%s names no test", name)
		}
	}
	if len(names) < 10 {
		t.Fatalf("found only %v: this test looks at nothing", names)
	}
	if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("rows are not in order, or not one for each complaint: %v", names)
	}
}

// TestCitations: rules and complaints that the code cites exist.
func TestCitations(t *testing.T) {
	root := moduleRoot(t)
	known := map[string]bool{}
	for _, row := range table(t, readText(t, root, protocolFile), "| # | name | tests |") {
		known[row[0]], known[row[1]] = true, true
	}
	for _, row := range table(t, readText(t, root, complaintsFile), "| complaint | what must hold | tests |") {
		known[strings.Trim(row[0], "`")] = true
	}
	citation := regexp.MustCompile(`\b(P\d{1,2}|[PT]-[a-z]+(-[a-z]+)*)\b`)
	cited := 0
	goFiles(t, root, func(name string) {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return // the compiler's work
		}
		if ast.IsGenerated(file) {
			return
		}
		for _, group := range file.Comments {
			for _, comment := range group.List {
				for _, word := range citation.FindAllString(comment.Text, -1) {
					cited++
					if !known[word] {
						t.Errorf("%s cites %s, which is neither in %s nor in %s", fset.Position(comment.Pos()), word, protocolFile, complaintsFile)
					}
				}
			}
		}
	})
	if cited < 100 {
		t.Errorf("found %d citations: this test looks at nothing", cited)
	}
}

// testNames are all tests of the module, by the last element of their package's
// path and their name: what the tables call them.
type testNames map[string]bool

func testsOf(t *testing.T) testNames {
	t.Helper()
	root, names, homes := moduleRoot(t), testNames{}, map[string]string{}
	isTest := regexp.MustCompile(`^(Test|Fuzz)[A-Z]`)
	goFiles(t, root, func(name string) {
		if !strings.HasSuffix(name, "_test.go") {
			return
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return
		}
		dir := filepath.ToSlash(filepath.Dir(name))
		for _, decl := range file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || !isTest.MatchString(fn.Name.Name) || fn.Name.Name == "TestMain" {
				continue
			}
			if home := homes[path.Base(dir)]; home != "" && home != dir {
				t.Errorf("%s and %s both have tests: what the tables call %s is not clear", home, dir, path.Base(dir))
			}
			homes[path.Base(dir)] = dir
			names[path.Base(dir)+"."+fn.Name.Name] = true
		}
	})
	for _, c := range contractCases(t, root) {
		names[path.Base(contractSuite)+"."+c] = true
	}
	if len(names) < 100 {
		t.Fatalf("found only %d tests: this test looks at nothing", len(names))
	}
	return names
}

// contractCases reads the names in the table `cases` of the contract suite.
func contractCases(t *testing.T, root string) (names []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, filepath.FromSlash(contractSuite), "run.go"), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Names) != 1 || spec.Names[0].Name != "cases" || len(spec.Values) != 1 {
			return true
		}
		list, _ := spec.Values[0].(*ast.CompositeLit)
		for _, elt := range list.Elts {
			if c, ok := elt.(*ast.CompositeLit); ok && len(c.Elts) > 0 {
				if lit, ok := c.Elts[0].(*ast.BasicLit); ok {
					if name, err := strconv.Unquote(lit.Value); err == nil {
						names = append(names, name)
					}
				}
			}
		}
		return false
	})
	if len(names) < 10 {
		t.Fatalf("found only the cases %v of %s: this test looks at nothing", names, contractSuite)
	}
	return names
}

// cell checks the last cell of a row: tests, separated by commas, then words
// after a semicolon that say what "comes later". A check that is
// no test of Go is in backquotes, with the file that makes it.
func (tests testNames) cell(t *testing.T, row, cell string) (named int, later bool) {
	t.Helper()
	for part := range strings.SplitSeq(cell, ";") {
		part = strings.TrimSpace(part)
		if strings.HasSuffix(part, "comes later") {
			later = true
			continue
		}
		for name := range strings.SplitSeq(part, ",") {
			name = strings.TrimSpace(name)
			if strings.HasPrefix(name, "`") {
				what, where, ok := strings.Cut(strings.TrimPrefix(name, "`"), "` in ")
				if raw, err := os.ReadFile(filepath.Join(moduleRoot(t), where)); !ok || err != nil || !strings.Contains(string(raw), what) {
					t.Errorf("%s: %s is not there (%v)", row, name, err)
				}
			} else if !tests[name] {
				t.Errorf("%s: there is no test %q", row, name)
			}
			named++
		}
	}
	return named, later
}

// table returns the rows of the table with that head, cell by cell.
func table(t *testing.T, text, head string) (rows [][]string) {
	t.Helper()
	_, text, ok := strings.Cut(text, "\n"+head+"\n")
	if !ok {
		t.Fatalf("no table %s", head)
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			break
		}
		if strings.HasPrefix(line, "|---") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if len(cells) != strings.Count(head, "|")-1 {
			t.Errorf("odd row %s", line)
			continue
		}
		rows = append(rows, cells)
	}
	return rows
}

func readText(t *testing.T, root, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// goFiles visits the Go files of the module, hidden directories apart.
func goFiles(t *testing.T, root string, visit func(name string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata"):
			return fs.SkipDir
		case !d.IsDir() && strings.HasSuffix(name, ".go"):
			visit(name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
