package store_test

import (
	"errors"
	"strings"
	"testing"

	"holdfast/master/store"
)

func TestMovable(t *testing.T) {
	for _, c := range []struct {
		key, value string
		want       error
		says       string
	}{
		{"store_id", "x", nil, ""},
		{store.MetaFrom, `{}`, nil, ""},
		{store.MetaMovedTo, "postgres://u@h:5432/d", store.ErrMoved, "in postgres://u@h:5432/d now"},
		{store.MetaMovedTo, "x", store.ErrMoved, "--undo 'postgres://u@/d?host=%2Fit'\\''s&port=1'"},
		{store.MetaTransfer, `{"from":"sqlite:/a b"}`, store.ErrHalfMoved, "--from 'sqlite:/a b' --to 'postgres"},
		{store.MetaTransfer, `{`, store.ErrHalfMoved, "cannot be read"},
	} {
		err := store.Movable(map[string]string{c.key: c.value}, "postgres://u@/d?host=%2Fit's&port=1")
		if !errors.Is(err, c.want) || c.want == nil && err != nil || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s %s: %v", c.key, c.value, err)
		}
	}
}
