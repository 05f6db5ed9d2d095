package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// reader walks the nodes of a build file. It knows which type of value stands
// where; whether the value is allowed is the checker's business. It goes on
// after a problem, so that people see all of them at once.
type reader struct {
	file     string
	problems []*FileError

	// keys and values remember where each path stands in the file.
	keys, values map[string]*yaml.Node
	// broken holds the paths reported here, and everything they are part of.
	broken map[string]bool
}

// field is a key of a mapping and how to read its value.
type field struct {
	key  string
	read func(at string, n *yaml.Node)
}

// fail reports a problem with the value at a path.
func (r *reader) fail(at string, n *yaml.Node, expected, found, hint string) {
	r.problems = append(r.problems, &FileError{
		File: r.file, Line: n.Line, Column: n.Column,
		FieldError: FieldError{Path: at, Expected: expected, Found: found, Hint: hint},
	})
	for at != "" && !r.broken[at] {
		r.broken[at] = true
		at = at[:max(strings.LastIndexAny(at, ".["), 0)]
	}
	r.broken[""] = true
}

// refuseSpecials reports the parts of YAML that build files do without.
func (r *reader) refuseSpecials(n *yaml.Node) {
	switch {
	case n.Kind == yaml.AliasNode:
		r.fail("", n, "a value", "the alias "+quote("*"+n.Value), "build files have no anchors and aliases")
	case n.Anchor != "":
		r.fail("", n, "a value", "the anchor "+quote("&"+n.Anchor), "build files have no anchors and aliases")
	case n.Style&yaml.TaggedStyle != 0:
		r.fail("", n, "a value", "the tag "+quote(n.Tag), `build files have no tags; quote what shall be text`)
	}
	for _, inner := range n.Content { // of an alias: none
		r.refuseSpecials(inner)
	}
}

// mapping calls each with the keys and values of a mapping.
func (r *reader) mapping(at string, n *yaml.Node, expected string, each func(key string, k, v *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		r.fail(at, n, expected, describe(n), "")
		return
	}
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode {
			r.fail(at, k, "a word as key", describe(k), "")
			continue
		}
		if line, dup := seen[k.Value]; dup {
			r.fail(child(at, k.Value), k, "each key once", "it again", fmt.Sprintf("first on line %d", line))
			continue
		}
		seen[k.Value] = k.Line
		r.keys[child(at, k.Value)], r.values[child(at, k.Value)] = k, v
		each(k.Value, k, v)
	}
}

// fields reads a mapping with a closed set of keys.
func (r *reader) fields(at string, n *yaml.Node, expected string, known []field) {
	r.values[at] = n
	r.mapping(at, n, expected, func(key string, k, v *yaml.Node) {
		i := slices.IndexFunc(known, func(f field) bool { return f.key == key })
		if i < 0 {
			names := make([]string, 0, len(known))
			for _, f := range known {
				names = append(names, f.key)
			}
			r.fail(child(at, key), k, "one of the keys "+strings.Join(names, ", "), quote(key), didYouMean(key, names))
			return
		}
		known[i].read(child(at, key), v)
	})
}

// list calls each with the elements of a list.
func (r *reader) list(at string, n *yaml.Node, expected string, each func(at string, n *yaml.Node)) {
	if n.Kind != yaml.SequenceNode {
		r.fail(at, n, expected, describe(n), "")
		return
	}
	for i, inner := range n.Content {
		r.values[element(at, i)] = inner
		each(element(at, i), inner)
	}
}

// text returns a reader of text: a scalar's text as it stands in the file, also
// if YAML takes it for a number or a truth value.
func (r *reader) text(to *string) func(string, *yaml.Node) {
	return func(at string, n *yaml.Node) {
		switch {
		case n.Kind != yaml.ScalarNode:
			r.fail(at, n, "text", describe(n), "")
		case isNull(n):
			r.fail(at, n, "text", describe(n), `an empty text is written ""`)
		default:
			*to = n.Value
		}
	}
}

// nonEmpty is text for keys that say nothing when empty.
func (r *reader) nonEmpty(to *string) func(string, *yaml.Node) {
	return func(at string, n *yaml.Node) {
		if r.text(to)(at, n); n.Kind == yaml.ScalarNode && n.Value == "" && !isNull(n) {
			r.fail(at, n, "text that is not empty", `""`, "")
		}
	}
}

// number returns a reader of whole numbers in plain decimal digits.
func (r *reader) number(to *int) func(string, *yaml.Node) {
	return func(at string, n *yaml.Node) {
		hint := ""
		if n.Kind == yaml.ScalarNode {
			// Atoi takes more than one spelling: +3, 010.
			v, err := strconv.Atoi(n.Value)
			switch {
			case n.Style != 0:
				hint = "without quotes"
			case err == nil && strconv.Itoa(v) == n.Value:
				*to = v
				return
			case n.ShortTag() == "!!int" || n.ShortTag() == "!!float":
				hint = "in plain decimal digits"
			}
		}
		r.fail(at, n, "a whole number such as 3", describe(n), hint)
	}
}

// duration returns a reader of durations, among them 0.
func (r *reader) duration(to *time.Duration) func(string, *yaml.Node) {
	return func(at string, n *yaml.Node) {
		if n.Kind != yaml.ScalarNode || isNull(n) {
			r.fail(at, n, "a duration such as 20m", describe(n), "")
			return
		}
		d, hint, ok := parseDuration(n.Value)
		if !ok {
			r.fail(at, n, "a duration such as 20m", describe(n), hint)
			return
		}
		*to = d
	}
}

// limit returns a reader of durations above zero; 0 would mean "no limit".
func (r *reader) limit(to *time.Duration) func(string, *yaml.Node) {
	return func(at string, n *yaml.Node) {
		if r.duration(to)(at, n); !r.broken[at] && *to == 0 {
			r.fail(at, n, "a duration above zero", describe(n), "leave it out for no limit")
		}
	}
}

// isNull reports whether the value was left empty or written as null or ~.
func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// describe says what a node is.
func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case isNull(n):
		return "nothing"
	default:
		return quote(n.Value)
	}
}
