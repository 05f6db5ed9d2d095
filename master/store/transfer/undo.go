package transfer

import (
	"context"
	"fmt"

	"holdfast/master/store"
)

// Undo takes the mark off a store that was moved, so that a master may start on it
// again. It returns where it had been moved to. Only one of the two may be used.
func Undo(ctx context.Context, p Place) (to string, err error) {
	d, err := p.open(ctx, false)
	if err != nil {
		return "", err
	}
	defer func() {
		d.rollback(ctx)
		_ = d.close(ctx) // what counts is committed
	}()
	if err := d.lock(ctx); err != nil {
		return "", err
	}
	if have, _ := d.versions(); have == 0 {
		return "", fmt.Errorf("%s: %w; it is empty", d.Name(), ErrNoStore)
	}
	meta, err := d.Meta(ctx)
	if err != nil {
		return "", err
	}
	if _, half := meta[store.MetaTransfer]; half {
		return "", fmt.Errorf("%s: %w", d.Name(), store.Movable(meta, d.Name()))
	}
	to, ok := meta[store.MetaMovedTo]
	if !ok {
		return "", refused("%s was not moved, so there is nothing to undo", d.Name())
	}
	if err := d.begin(ctx); err != nil {
		return "", err
	}
	if err := d.drop(ctx, store.MetaMovedTo); err != nil {
		return "", err
	}
	return to, d.commit(ctx)
}
