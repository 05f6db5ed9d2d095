package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"holdfast/master/lifecycle"
)

// errUndo is returned by an op's rule that has changed the group in memory and
// then refused: its Err is set, and the group must run again without it.
var errUndo = errors.New("undo")

// Group runs a group of operations in one transaction of any database. Begin
// runs a function in a write transaction, and commits it durably if the
// function returns nil, else rolls it back. The result is that of
// Store.Commit.
//
//	     load rows           run the rules in memory            save
//	ops ──────────► group ──────────────────────────► Writes ─────────► commit
//	       ▲                    │ refused after a change        │ fence did not hold
//	       └────────────────────┴───── again, without that op ──┘
func Group(ctx context.Context, begin func(context.Context, func(Tx) error) error, ops []Op) error {
	refused := make([]bool, len(ops))
	var extra extra
	for _, op := range ops {
		op.reset()
	}
	for {
		var g *group
		err := begin(ctx, func(tx Tx) error {
			var err error
			g, err = apply(ctx, tx, ops, refused, &extra)
			return err
		})
		var fenced *FencedError
		if !errors.As(err, &fenced) {
			return err
		}
		// The transaction was rolled back. The fence is the last word: what
		// the rules saw when they let the op through was not so (P-fence).
		owners := g.fenceOwners(fenced)
		if len(owners) == 0 {
			return fmt.Errorf("%w: %w, which no operation has asked for", ErrFatal, fenced)
		}
		for _, i := range owners {
			refused[i] = true
			ops[i].reset()
			ops[i].refuse(ErrFenced)
		}
	}
}

// apply runs the ops that are not refused, in order, and saves what they
// change. Ops that turn out to be refused after they changed something are
// marked, and everything in memory starts over from rows read again.
func apply(ctx context.Context, tx Tx, ops []Op, refused []bool, extra *extra) (*group, error) {
again:
	g, err := load(ctx, tx, ops, refused, extra)
	if err != nil {
		return nil, err
	}
	for i, op := range ops {
		if refused[i] {
			continue
		}
		op.reset()
		g.current = i
		before := len(g.events)
		switch err := op.apply(ctx, g); {
		case err == nil:
			g.collect()
			// Without events of its own an op keeps those of an earlier try
			// whose outcome was unknown: whoever is hinted at them must be.
			if len(g.events) > before {
				op.emit(g.events[before:len(g.events):len(g.events)])
			}
		case errors.Is(err, errUndo):
			refused[i] = true
			goto again
		case extra.take(err):
			goto again
		default:
			return g, err
		}
	}
	switch err := g.judge(ctx); {
	case extra.take(err):
		goto again
	case err != nil:
		return g, err
	}
	w := g.writes()
	if w.empty() {
		return g, nil
	}
	return g, tx.Save(ctx, w)
}

// empty reports whether there is nothing to save.
func (w *Writes) empty() bool {
	return len(w.Fences) == 0 && len(w.LogFences) == 0 && len(w.Masters) == 0 && len(w.Slaves) == 0 &&
		len(w.NewBuilds) == 0 && len(w.Builds) == 0 && len(w.NewAttempts) == 0 && len(w.Attempts) == 0 &&
		len(w.NewSteps) == 0 && len(w.Steps) == 0 && len(w.Frames) == 0 && len(w.Chunks) == 0 &&
		len(w.LogGaps) == 0 && len(w.Refused) == 0 && len(w.Waits) == 0 && len(w.Requests) == 0 &&
		len(w.Events) == 0
}

// load reads all rows the ops need. Which builds an op touches is known only
// from the rows of its attempts, so a group with ops that may change a build
// first looks, then reads and locks everything in one go. What has come up in
// between is read in another round.
func load(ctx context.Context, tx Tx, ops []Op, refused []bool, extra *extra) (*group, error) {
	k := Keys{Builds: slices.Clone(extra.builds), Instances: slices.Clone(extra.instances)}
	for i, op := range ops {
		if !refused[i] {
			op.keys(&k)
		}
	}
	k.Lock = !k.resolve.any()
	for range maxLooks {
		rows, err := tx.Load(ctx, k)
		if err != nil {
			return nil, err
		}
		missing := k.resolve.missing(rows)
		if len(missing) == 0 && k.Lock {
			return newGroup(tx, rows), nil
		}
		k.Builds = append(k.Builds, missing...)
		k.Lock = true
	}
	return nil, fmt.Errorf("%w: attempts without builds", ErrFatal)
}

// extra is what a run of the group turned out to need and that was not read.
type extra struct {
	builds    []lifecycle.BuildID
	instances []lifecycle.InstanceID
}

// take reports whether err asks for something new, which another run reads.
func (e *extra) take(err error) bool {
	var build *needBuild
	var slave *needSlave
	switch {
	case errors.As(err, &build) && !slices.Contains(e.builds, build.id):
		e.builds = append(e.builds, build.id)
	case errors.As(err, &slave) && !slices.Contains(e.instances, slave.id):
		e.instances = append(e.instances, slave.id)
	default:
		return false
	}
	return true
}

// maxLooks bounds load. Two looks are enough for a single writer; each further
// one means that another master changed something in between.
const maxLooks = 16
