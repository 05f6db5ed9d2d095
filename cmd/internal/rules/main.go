package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"

	"golang.org/x/tools/cover"
)

// elsewhere lists the rules that the simulation cannot come by, with the reason.
var elsewhere = map[string]string{
	"P-durable": "a promise: the verdict over each run",
	"P-once":    "a promise: the verdict over each run",
	"P-kept":    "a promise: the verdict over each run",
	"P-single":  "a promise: the verdict over each run",
	"P-survive": "a promise: the verdict over each run",
	"P-bounded": "a promise: P-limits, P-full and P-sync keep it",
	"P-exit":    "runners are played: runner and end-to-end tests",
	"P-keep":    "nothing deletes history yet",
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run ./cmd/internal/rules COVERPROFILE, at the root of the repository")
		os.Exit(2)
	}
	missed, err := run(os.Stdout, ".", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "rules:", err)
		os.Exit(2)
	}
	if len(missed) > 0 {
		fmt.Fprintln(os.Stderr, "never hit:", missed)
		os.Exit(1)
	}
}

// run prints the table and returns the rules that were missed.
func run(out io.Writer, root, profile string) (missed []string, err error) {
	rules, err := readRules(filepath.Join(root, "proto", "PROTOCOL.md"))
	if err != nil {
		return nil, err
	}
	profiles, err := cover.ParseProfiles(profile)
	if err != nil {
		return nil, err
	}
	counts := countsOf(profiles)
	places, err := findPlaces(root, counts)
	if err != nil {
		return nil, err
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "RULE\tHITS\tPLACES\tLEAST")
	for _, r := range rules {
		named := places[r.name]
		hits, hit := 0, 0
		least := ""
		for _, p := range named {
			hits += p.hits
			if p.hits > 0 {
				hit++
			}
		}
		if len(named) > 0 {
			p := slices.MinFunc(named, func(a, b place) int { return a.hits - b.hits })
			least = fmt.Sprintf("%d at %s", p.hits, p)
		}
		why := elsewhere[r.name]
		if hits == 0 && why != "" {
			least = why
		}
		fmt.Fprintf(w, "%s %s\t%d\t%d of %d\t%s\n", r.number, r.name, hits, hit, len(named), least)
		if hits == 0 && why == "" {
			missed = append(missed, r.name)
		}
	}
	return missed, w.Flush()
}
