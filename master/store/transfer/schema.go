package transfer

import (
	"fmt"
	"slices"
	"strings"
)

// versionTable is the one of the migrations: each database has its own.
const versionTable = "schema_versions"

// The kinds of columns.
const (
	number = 'i'
	text   = 't'
	blob   = 'b'
)

// column is one of a table.
type column struct {
	name string
	kind byte
}

// table is one as both databases have it.
type table struct {
	name    string
	columns []column // by name
	// key are the columns of the primary key, or of a unique index where there is
	// none: they tell rows apart and put them in order.
	key []int
	// refs are the tables that must be filled before.
	refs []string
	// identity is the column that the database counts by itself; empty: none.
	identity string
}

// newTable puts a table together from what a catalog says. keys are the unique
// indexes, the primary key first.
func newTable(name string, columns []column, keys [][]string, refs []string) (*table, error) {
	slices.SortFunc(columns, func(a, b column) int { return strings.Compare(a.name, b.name) })
	t := &table{name: name, columns: columns, refs: refs}
	if len(keys) == 0 {
		return t, nil // it is none of ours
	}
	for _, k := range keys[0] {
		i := slices.IndexFunc(columns, func(c column) bool { return c.name == k })
		if i < 0 {
			return nil, fmt.Errorf("table %s: its key has no column %s", name, k)
		}
		t.key = append(t.key, i)
	}
	return t, nil
}

// names are the columns for a statement.
func (t *table) names() []string {
	list := make([]string, len(t.columns))
	for i, c := range t.columns {
		list[i] = c.name
	}
	return list
}

// keyOf are the values of the key in a row.
func (t *table) keyOf(row []any) []any {
	list := make([]any, len(t.key))
	for i, k := range t.key {
		list[i] = row[k]
	}
	return list
}

// shape is all that must be the same in both databases.
func (t *table) shape() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s(", t.name)
	for i, c := range t.columns {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s %c", c.name, c.kind)
	}
	b.WriteString(") by ")
	for i, k := range t.key {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(t.columns[k].name)
	}
	return b.String()
}

// inOrder puts tables into an order in which references lead back.
func inOrder(tables []*table) ([]*table, error) {
	slices.SortFunc(tables, func(a, b *table) int { return strings.Compare(a.name, b.name) })
	var order []*table
	done := map[string]bool{}
	for len(order) < len(tables) {
		before := len(order)
		for _, t := range tables {
			waits := slices.ContainsFunc(t.refs, func(r string) bool { return r != t.name && !done[r] })
			if !done[t.name] && !waits {
				done[t.name] = true
				order = append(order, t)
			}
		}
		if len(order) == before {
			return nil, fmt.Errorf("the tables refer to one another in a circle")
		}
	}
	return order, nil
}

// agree returns the target's tables in the order in which they are filled, and the
// names of those that only the source has.
func agree(source, target []*table) (tables []*table, left []string, err error) {
	have := map[string]*table{}
	for _, t := range source {
		have[t.name] = t
	}
	for _, t := range target {
		s := have[t.name]
		if s == nil {
			return nil, nil, refused("the source has no table %s", t.name)
		}
		if s.shape() != t.shape() {
			return nil, nil, refused("the two have different tables: %s, and %s", s.shape(), t.shape())
		}
		delete(have, t.name)
	}
	for _, t := range source {
		if have[t.name] != nil {
			left = append(left, t.name)
		}
	}
	tables, err = inOrder(target)
	return tables, left, err
}
