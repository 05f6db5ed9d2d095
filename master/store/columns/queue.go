package columns

import (
	"cmp"
	"slices"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
)

// Queued is a build with its place in the queue.
type Queued struct {
	priority, n int64
	build       lifecycle.Build
}

// QueuedColumns are the columns of builds that ScanQueued scans.
const QueuedColumns = `priority, n, ` + BuildWithoutSpec

// ScanQueued scans QueuedColumns.
func ScanQueued(r Row, q *Queued) error {
	return ScanBuild(placeRow{r, []any{&q.priority, &q.n}}, &q.build)
}

// placeRow scans two columns into place and leaves the rest to another.
type placeRow struct {
	Row
	place []any
}

func (p placeRow) Scan(into ...any) error { return p.Row.Scan(append(p.place, into...)...) }

// MergeQueue puts what was found for each set of requirements into the order of the
// queue. The limit of a filter that names no sets is for all of them together.
func MergeQueue(f store.QueueFilter, found ...[]Queued) []lifecycle.Build {
	all := slices.Concat(found...)
	slices.SortFunc(all, func(a, b Queued) int {
		return cmp.Or(cmp.Compare(b.priority, a.priority), cmp.Compare(a.n, b.n))
	})
	if f.Requires == nil {
		all = all[:min(len(all), f.Limit)]
	}
	list := make([]lifecycle.Build, len(all))
	for i := range all {
		list[i] = all[i].build
	}
	return list
}
