package transfer

import "context"

// Shapes are the tables of a place as both databases must have them.
func Shapes(ctx context.Context, p Place) ([]string, error) {
	d, err := p.open(ctx, false)
	if err != nil {
		return nil, err
	}
	defer d.close(ctx)
	tables, err := d.tables(ctx)
	if err != nil {
		return nil, err
	}
	if tables, err = inOrder(tables); err != nil {
		return nil, err
	}
	var list []string
	for _, t := range tables {
		list = append(list, t.shape())
	}
	return list, nil
}
