package postgres

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// sheet is many rows of one table, column by column, as one statement writes them.
// A text or binary column is never NULL; a number may be.
type sheet struct {
	*shape
	texts   map[int][]string
	numbers map[int][]*int64
	bytes   map[int][][]byte
	n       int
}

// shape is the statement of a sheet and its columns. A statement finds the rows under
// the name x, with the columns' names and, last, ord: their order.
type shape struct {
	names, kinds []string
	query        string
}

// newShape reads columns, "name kind" each, and puts them into a statement in place of
// @x.
func newShape(list, query string) *shape {
	s := &shape{}
	var arrays []string
	for i, column := range strings.Split(list, ",") {
		name, kind, _ := strings.Cut(strings.TrimSpace(column), " ")
		s.names, s.kinds = append(s.names, name), append(s.kinds, kind)
		arrays = append(arrays, fmt.Sprintf("$%d::%s[]", i+1, kind))
	}
	x := `unnest(` + strings.Join(arrays, ", ") + `) WITH ORDINALITY AS x(` + strings.Join(s.names, ", ") + `, ord)`
	s.query = strings.ReplaceAll(query, "@x", x)
	return s
}

// list are the columns' names.
func (s *shape) list() string { return strings.Join(s.names, ", ") }

// insert is a statement that adds the rows of a sheet to a table, in their order.
func insert(table, list string) *shape {
	names := newShape(list, "").list()
	return newShape(list, `INSERT INTO `+table+` (`+names+`) SELECT `+names+` FROM @x ORDER BY ord`)
}

// update is a statement that sets all columns but the first, by which rows are found.
func update(table, list string) *shape {
	s := newShape(list, "")
	var set []string
	for _, name := range s.names[1:] {
		set = append(set, name+" = x."+name)
	}
	return newShape(list, `UPDATE `+table+` t SET `+strings.Join(set, ", ")+` FROM @x WHERE t.`+s.names[0]+` = x.`+s.names[0])
}

// sheet begins a sheet of a shape.
func (s *shape) sheet() *sheet {
	return &sheet{shape: s, texts: map[int][]string{}, numbers: map[int][]*int64{}, bytes: map[int][][]byte{}}
}

// add adds a row, its values in the order of the columns.
func (s *sheet) add(values ...any) {
	if len(values) != len(s.kinds) {
		panic(fmt.Sprintf("postgres: %d values for %d columns of %s", len(values), len(s.kinds), s.query))
	}
	for i, v := range values {
		switch s.kinds[i] {
		case "text":
			s.texts[i] = append(s.texts[i], storable(v.(string)))
		case "bytea":
			s.bytes[i] = append(s.bytes[i], v.([]byte))
		default:
			s.numbers[i] = append(s.numbers[i], count(v))
		}
	}
	s.n++
}

// count is a value of a column of numbers.
func count(v any) *int64 {
	var n int64
	switch v := v.(type) {
	case nil:
		return nil
	case int64:
		n = v
	case int:
		n = int64(v)
	case uint32:
		n = int64(v)
	default:
		panic(fmt.Sprintf("postgres: %T in a column of numbers", v))
	}
	return &n
}

// queue adds the statement to a round trip, if there are rows.
func (s *sheet) queue(b *pgx.Batch) *pgx.QueuedQuery {
	if s.n == 0 {
		return nil
	}
	args := make([]any, len(s.kinds))
	for i, kind := range s.kinds {
		switch kind {
		case "text":
			args[i] = s.texts[i]
		case "bytea":
			args[i] = s.bytes[i]
		default:
			args[i] = s.numbers[i]
		}
	}
	return b.Queue(s.query, args...)
}

// storable is a text as PostgreSQL can keep it: it takes neither NUL nor what is no
// UTF-8. Slaves and people can send both, and a build must not fail for it.
func storable(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}
