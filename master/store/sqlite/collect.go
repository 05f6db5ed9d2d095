package sqlite

import (
	"database/sql"

	"holdfast/master/store/columns"
)

// collect scans all rows into a list and closes them.
func collect[T any](rows *sql.Rows, err error, scan func(columns.Row, *T) error) ([]T, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []T
	for rows.Next() {
		var v T
		if err := scan(rows, &v); err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, rows.Err()
}
