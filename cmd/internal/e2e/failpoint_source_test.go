package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Each fail point of the source has its deaths, and the other way round.
func TestFailpointsAreAllTried(t *testing.T) {
	t.Parallel()
	calls := make(map[string]string) // where, by name
	for _, root := range []string{"journal", "retry", "proto", "slave", "master", "cmd"} {
		err := filepath.WalkDir(filepath.Join("..", "..", "..", root), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			return pointsIn(path, calls)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	tried := make(map[string]bool)
	for _, d := range deaths {
		tried[d.point] = true
	}
	for _, name := range slices.Sorted(maps.Keys(calls)) {
		if !tried[name] {
			t.Errorf("%s: nobody dies at %s", calls[name], name)
		}
		delete(tried, name)
	}
	for name := range tried {
		t.Errorf("there is no fail point %s", name)
	}
	// What people get has none.
	exe, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range append(slices.Collect(maps.Keys(calls)), "HOLDFAST_FAILPOINT", "failpoint.Here") {
		if bytes.Contains(exe, []byte(word)) {
			t.Errorf("the binary without the tag has %q in it", word)
		}
	}
	with, err := mortal()
	if err != nil {
		t.Fatal(err)
	}
	if exe, err = os.ReadFile(with); err != nil || !bytes.Contains(exe, []byte("HOLDFAST_FAILPOINT")) {
		t.Errorf("nor has the one with it: this test looks at nothing (%v)", err)
	}
}

// pointsIn adds the fail points of a file. A name is written out, and once.
func pointsIn(path string, calls map[string]string) error {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if fn, ok := call.Fun.(*ast.SelectorExpr); !ok || fn.Sel.Name != "Here" {
			return true
		} else if pkg, ok := fn.X.(*ast.Ident); !ok || pkg.Name != "failpoint" {
			return true
		}
		at := set.Position(call.Pos()).String()
		literal, ok := call.Args[0].(*ast.BasicLit)
		if !ok {
			err = errors.Join(err, fmt.Errorf("%s: the name of a fail point is written out", at))
			return true
		}
		name, _ := strconv.Unquote(literal.Value)
		if before := calls[name]; before != "" {
			err = errors.Join(err, fmt.Errorf("%s: %s is also at %s", at, name, before))
		}
		calls[name] = at
		return true
	})
	return err
}
