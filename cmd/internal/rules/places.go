package main

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/tools/cover"
)

// module is the path before the directories of this repository.
const module = "holdfast/"

// rule is one of PROTOCOL.md's.
type rule struct{ number, name string }

var (
	ruleLine = regexp.MustCompile(`^- \*\*(P\d+) (P-[a-z-]+)\.\*\*`)
	ruleName = regexp.MustCompile(`\bP-[a-z]+(-[a-z]+)*\b`)
)

// readRules returns the rules in the order of the text.
func readRules(path string) ([]rule, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var rules []rule
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if m := ruleLine.FindStringSubmatch(lines.Text()); m != nil {
			rules = append(rules, rule{m[1], m[2]})
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(rules) == 0 {
		return nil, fmt.Errorf("%s has no rules", path)
	}
	return rules, nil
}

// counts are the executions of a file's blocks, by file as the profile names it.
type counts map[string][]cover.ProfileBlock

func countsOf(profiles []*cover.Profile) counts {
	c := make(counts)
	for _, p := range profiles {
		c[p.FileName] = p.Blocks
	}
	return c
}

// of returns how often the smallest block around a position was executed; false:
// there is none.
func (c counts) of(file string, at token.Position) (hits int, found bool) {
	lines := 1 << 30
	for _, b := range c[file] {
		after := b.StartLine < at.Line || b.StartLine == at.Line && b.StartCol <= at.Column
		before := at.Line < b.EndLine || at.Line == b.EndLine && at.Column <= b.EndCol
		if after && before && b.EndLine-b.StartLine <= lines {
			lines, hits, found = b.EndLine-b.StartLine, b.Count, true
		}
	}
	return hits, found
}

// place is where the code names a rule.
type place struct {
	file string // of this repository
	line int
	hits int
}

func (p place) String() string { return fmt.Sprintf("%s:%d", p.file, p.line) }

// findPlaces returns the places of all rules, of files that the profile knows.
func findPlaces(root string, c counts) (map[string][]place, error) {
	places := make(map[string][]place)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != root {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if _, known := c[module+filepath.ToSlash(rel)]; !known {
			return nil
		}
		return findIn(path, filepath.ToSlash(rel), c, places)
	})
	return places, err
}

// findIn adds the places of one file.
func findIn(path, rel string, c counts, places map[string][]place) error {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, nil, parser.ParseComments)
	if err != nil {
		return err
	}
	for _, group := range file.Comments {
		names := ruleName.FindAllString(group.Text(), -1)
		if len(names) == 0 {
			continue
		}
		at := executed(set, file, group)
		if !at.IsValid() {
			continue // of a type, a constant, a package
		}
		hits, found := c.of(module+rel, set.Position(at))
		if !found {
			continue
		}
		seen := make(map[string]bool)
		for _, name := range names {
			if !seen[name] {
				seen[name] = true
				places[name] = append(places[name], place{rel, set.Position(group.Pos()).Line, hits})
			}
		}
	}
	return nil
}

// executed is the position of what runs where a comment stands: the first
// statement of the function that it is the doc of, or the statement that it
// stands before, beside or at the end of.
func executed(set *token.FileSet, file *ast.File, comment *ast.CommentGroup) token.Pos {
	for _, d := range file.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Body == nil {
			continue
		}
		if fn.Doc == comment {
			if len(fn.Body.List) == 0 {
				return token.NoPos
			}
			return fn.Body.List[0].Pos()
		}
		if comment.Pos() < fn.Body.Lbrace || comment.End() > fn.Body.Rbrace {
			continue
		}
		return nearest(set, fn.Body, comment)
	}
	return token.NoPos
}

// nearest is the statement, of the innermost list of statements around a comment,
// that follows it or, if there is none, precedes it.
func nearest(set *token.FileSet, body *ast.BlockStmt, comment *ast.CommentGroup) token.Pos {
	var at token.Pos
	look := func(from, to token.Pos, list []ast.Stmt) {
		if comment.Pos() < from || comment.End() > to {
			return
		}
		// Lists further in are visited later, and win.
		at = from
		for _, s := range list {
			at = first(s)
			beside := set.Position(s.End()).Line == set.Position(comment.Pos()).Line
			if beside || s.End() >= comment.Pos() {
				break // beside it, around it, or behind it
			}
		}
	}
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BlockStmt:
			look(n.Lbrace+1, n.Rbrace, n.List)
		case *ast.CaseClause:
			look(n.Colon+1, n.End(), n.Body)
		case *ast.CommClause:
			look(n.Colon+1, n.End(), n.Body)
		}
		return true
	})
	return at
}

// first is what a statement executes first: a case has nothing of its own.
func first(s ast.Stmt) token.Pos {
	if c, ok := s.(*ast.CaseClause); ok && len(c.Body) > 0 {
		return c.Body[0].Pos()
	}
	if c, ok := s.(*ast.CommClause); ok && len(c.Body) > 0 {
		return c.Body[0].Pos()
	}
	return s.Pos()
}
