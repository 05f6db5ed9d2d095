package deptest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A pkg is one package as go list tells it.
type pkg struct {
	ImportPath, Name                   string
	Imports, TestImports, XTestImports []string
	own                                bool
}

// graph holds every package that ours reach without their tests. Ours are
// named without the module, so that keys are what rules say.
type graph map[string]*pkg

func TestArrows(t *testing.T) {
	g, mine := load(t)
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			for _, p := range mine {
				for _, chain := range r.broken(g, p) {
					t.Errorf("%s\n\t%s", strings.Join(chain, " → "), r.reason)
				}
			}
		})
	}
}

// TestRulesBite gives each rule an import that it must refuse.
func TestRulesBite(t *testing.T) {
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			from, to, ok := strings.Cut(r.bites, " ")
			if !ok || r.reason == "" {
				t.Fatal("the rule needs a reason, and bites needs two packages")
			}
			refused := func(p *pkg) bool {
				g := graph{from: p, "between": {Imports: []string{to}}, to: {own: true}}
				return r.broken(g, from) != nil
			}
			if !refused(&pkg{Imports: []string{to}}) {
				t.Errorf("allows %s → %s", from, to)
			}
			if got := refused(&pkg{Imports: []string{"between"}}); got != r.reach {
				t.Errorf("refuses %s → between → %s: %v, want %v", from, to, got, r.reach)
			}
			if got := refused(&pkg{XTestImports: []string{to}}); got != r.tests {
				t.Errorf("refuses %s to a test of %s: %v, want %v", to, from, got, r.tests)
			}
		})
	}
}

func TestNames(t *testing.T) {
	g, mine := load(t)
	for _, p := range mine {
		for _, name := range []string{path.Base(p), strings.TrimSuffix(g[p].Name, "_test")} {
			if slices.Contains(drawers, name) {
				t.Errorf("%s: a package called %s is a drawer for anything; name it for what it does", p, name)
			}
		}
	}
}

// TestDependencies wants a line in docs/dependencies.md for each module that
// we import ourselves.
func TestDependencies(t *testing.T) {
	root := moduleRoot(t)
	doc, err := os.ReadFile(filepath.Join(root, "docs", "dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil { // for go's test cache, see load
		t.Fatal(err)
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(goTool(t, root, "mod", "edit", "-json"), &mod); err != nil {
		t.Fatal(err)
	}
	for _, m := range mod.Require {
		if !m.Indirect && !bytes.Contains(doc, []byte("`"+m.Path+"`")) {
			t.Errorf("docs/dependencies.md does not say what %s is for", m.Path)
		}
	}
}

// broken returns each way in which p breaks the rule, as the chain of imports
// from p to what it may not import.
func (r *rule) broken(g graph, p string) [][]string {
	home := within(p, r.of)
	if home == "" || within(p, r.exceptOf) != "" {
		return nil
	}
	forbidden := func(to string) bool {
		if home != ours && inTree(to, home) || within(to, r.allows) != "" {
			return false
		}
		return slices.ContainsFunc(r.forbids, func(f string) bool {
			return inTree(to, f) || f == ours && g[to] != nil && g[to].own
		})
	}

	first := slices.Clone(g[p].Imports)
	if r.tests {
		first = append(append(first, g[p].TestImports...), g[p].XTestImports...)
	}
	var broken [][]string
	seen := map[string]bool{p: true}
	var queue [][]string
	visit := func(chain []string, imports []string) {
		for _, to := range imports {
			if seen[to] {
				continue
			}
			seen[to] = true
			next := append(slices.Clone(chain), to)
			if forbidden(to) {
				broken = append(broken, next) // and not further: one finding, not its whole tail
			} else if r.reach {
				queue = append(queue, next)
			}
		}
	}
	visit([]string{p}, first)
	for len(queue) > 0 {
		chain := queue[0]
		queue = queue[1:]
		if next := g[chain[len(chain)-1]]; next != nil {
			visit(chain, next.Imports)
		}
	}
	return broken
}

// load lists our packages and all they reach. Packages that do not compile are
// listed as far as they go: saying so is the compiler's work.
func load(t *testing.T) (g graph, mine []string) {
	t.Helper()
	root := moduleRoot(t)
	// go's test cache sees the files this process looks at, not those that go
	// list reads: without this a cached pass would outlive the change it missed.
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && name != root {
			return fs.SkipDir
		}
		if strings.HasSuffix(name, ".go") {
			if _, err := os.Stat(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}

	module := strings.TrimSpace(string(goTool(t, root, "list", "-m")))
	name := func(p string) string { return strings.TrimPrefix(p, module+"/") }
	g = graph{}
	dec := json.NewDecoder(bytes.NewReader(goTool(t, root, "list", "-e", "-deps", "-json=ImportPath,Name,Imports,TestImports,XTestImports", "./...")))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		p.own = name(p.ImportPath) != p.ImportPath
		for _, imports := range [][]string{p.Imports, p.TestImports, p.XTestImports} {
			for i := range imports {
				imports[i] = name(imports[i])
			}
		}
		p.ImportPath = name(p.ImportPath)
		g[p.ImportPath] = &p
		if p.own {
			mine = append(mine, p.ImportPath)
		}
	}
	if len(mine) < 2 {
		t.Fatalf("found only %v: this test looks at nothing", mine)
	}
	return g, mine
}

func moduleRoot(t *testing.T) string {
	t.Helper()
	return filepath.Dir(strings.TrimSpace(string(goTool(t, ".", "env", "GOMOD"))))
}

func goTool(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return out
}

// within returns the entry of trees that p is in, "" for none.
func within(p string, trees []string) string {
	for _, tree := range trees {
		if tree == ours || inTree(p, tree) {
			return tree
		}
	}
	return ""
}

func inTree(p, tree string) bool { return p == tree || strings.HasPrefix(p, tree+"/") }
