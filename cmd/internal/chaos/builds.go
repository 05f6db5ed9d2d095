//go:build linux

package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"holdfast/cmd/internal/client"
	"holdfast/cmd/internal/judge"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// transientExit is the exit code that all builds here declare to be nobody's
// fault.
const transientExit = 75

// people submit, cancel and unshelve builds, and keep what they were told.
type people struct {
	exe, truth string
	slaves     int
	long       time.Duration // of a long step
	client     *client.Client
	fail       func(class judge.Class, format string, args ...any)

	rng *rand.Rand // owned by work
	wg  sync.WaitGroup

	mu       sync.Mutex
	asked    map[string]*order // guarded by mu; by build
	loud     []string          // guarded by mu; labels for which a loud build is wanted
	underway int               // guarded by mu
	shelved  int               // guarded by mu
	waiting  int               // guarded by mu; loud builds that no slave has taken yet
}

// order is a build that was asked for, and what people were told of it.
type order struct {
	spec      *holdfastv1.BuildSpec
	steps     []script
	asked     bool // its cancel was
	cancelled bool // and it was told to be
	unshelved int
	looked    int // how often it was found on the shelf
}

// work submits builds until ctx ends, then waits until all that was begun has
// its answer.
func (p *people) work(ctx context.Context) {
	defer p.wg.Wait()
	every := min(max(2*time.Second/time.Duration(p.slaves), 100*time.Millisecond), 500*time.Millisecond)
	look := time.Now()
	for sleep(ctx, time.Duration(float64(every)*(0.2+1.6*p.rng.Float64()))) {
		if time.Since(look) > 700*time.Millisecond {
			p.look(ctx, true)
			look = time.Now()
		}
		p.mu.Lock()
		busy := p.underway > 3*p.slaves+4
		label := ""
		if len(p.loud) > 0 {
			label, p.loud = p.loud[0], p.loud[1:]
		}
		p.mu.Unlock()
		if busy && label == "" {
			continue
		}
		o := p.draw(label)
		var cancelAfter time.Duration
		if p.rng.Float64() < 0.08 {
			cancelAfter = time.Duration(p.rng.Float64() * float64(4*time.Second))
		}
		p.wg.Go(func() {
			id := p.submit(context.WithoutCancel(ctx), o)
			if cancelAfter > 0 {
				sleep(ctx, cancelAfter)
				p.cancel(context.WithoutCancel(ctx), id)
			}
		})
	}
}

// wantLoud asks for a build that writes a lot, on a slave with such a label.
func (p *people) wantLoud(label string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.loud)+p.waiting < 2 { // else the farm is soon busy with nothing but those
		p.loud = append(p.loud, label)
	}
}

// draw makes a build.
func (p *people) draw(label string) *order {
	us := func(d time.Duration) *int64 { n := d.Microseconds(); return &n }
	r := p.rng
	s := &holdfastv1.BuildSpec{Name: fmt.Sprintf("b%02d", r.IntN(40)), Reason: "chaos",
		Retry: &holdfastv1.RetryPolicy{BackoffUs: us(200 * time.Millisecond), BackoffCapUs: us(2 * time.Second)}}
	o := &order{spec: s}
	switch dice := r.Float64(); {
	case dice < 0.10:
		s.LostNever = true
	case dice < 0.25: // given up while it runs on, so that it comes back to find another in its place
		s.LostAfterUs = us(2*time.Second + time.Duration(r.Float64()*float64(8*time.Second)))
	}
	if r.Float64() < 0.1 {
		s.Rerun = "never"
	}
	if label != "" {
		s.Requires = map[string]string{"chaos": label}
	}
	for i := range 1 + r.IntN(3) {
		sc := script{Truth: p.truth, Bursts: 1 + r.IntN(5), Lines: r.IntN(40), Width: r.IntN(100),
			Pause: time.Duration(r.Float64() * float64(250*time.Millisecond))}
		switch dice := r.Float64(); {
		case label != "":
			sc.Bursts, sc.Lines, sc.Width, sc.Pause = 8, 4000, 70, 50*time.Millisecond // 3 MB
		case dice < 0.05: // a long one
			sc.Bursts, sc.Pause = 40, p.long/40
		case dice < 0.10:
			sc.Lines = 3000
		}
		switch dice := r.Float64(); {
		case dice < 0.06:
			sc.Exits = []int{1 + r.IntN(9)}
		case dice < 0.10:
			sc.Exits = []int{transientExit, 0}
		case dice < 0.11:
			sc.Exits = []int{transientExit}
		}
		sc.Deaf, sc.Leaves = r.Float64() < 0.05, r.Float64() < 0.02
		raw, _ := json.Marshal(sc)
		s.Steps = append(s.Steps, &holdfastv1.StepSpec{Name: fmt.Sprintf("s%d", i+1), Command: []string{p.exe, "chaos-step", string(raw)},
			RetryExitCodes: []int32{transientExit}, GraceUs: us(time.Second)})
		o.steps = append(o.steps, sc)
	}
	return o
}

// submit asks until somebody confirms it (P-submit).
func (p *people) submit(ctx context.Context, o *order) string {
	id := client.NewID()
	p.insist(ctx, "submit", func() error {
		resp, err := p.client.Submit(ctx, &holdfastv1.SubmitBuildRequest{BuildId: id, RequestKey: "chaos-" + id, Spec: o.spec, Submitter: "chaos"})
		if err == nil && resp.GetBuildId() != id {
			p.fail(judge.Doubled, "submitted build %s, told %s", id, resp.GetBuildId())
		}
		return err
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked[id] = o
	p.underway++
	if len(o.spec.GetRequires()) > 0 {
		p.waiting++
	}
	return id
}

// cancel cancels a build; one that has ended meanwhile stays as it is.
func (p *people) cancel(ctx context.Context, id string) {
	p.mu.Lock()
	o := p.asked[id]
	o.asked = true
	p.mu.Unlock()
	p.insist(ctx, "cancel", func() error {
		state, err := p.client.Cancel(ctx, id, "chaos", "chaos")
		if state == "cancelled" {
			p.mu.Lock()
			o.cancelled = true
			p.mu.Unlock()
		}
		return err
	})
}

// insist repeats a request until it is answered. A refusal is an answer: the
// build has ended meanwhile.
func (p *people) insist(ctx context.Context, what string, request func() error) {
	for ctx.Err() == nil {
		err := request()
		switch {
		case err == nil, rpcerr.Is(err, rpcerr.BadState):
			return
		case rpcerr.Is(err, rpcerr.Conflict, rpcerr.Invalid, rpcerr.Internal, rpcerr.NotFound):
			p.fail(judge.Other, "%s: %v", what, err)
			return
		}
		sleep(ctx, 200*time.Millisecond)
	}
}

// look is what operators do: they end quarantines and, as long as they care,
// look after the shelf. It reports whether the master answered.
func (p *people) look(ctx context.Context, shelf bool) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list, err := p.client.Builds(ctx, &holdfastv1.ListBuildsRequest{States: []string{"queued", "running"}, Limit: 1000})
	if err != nil {
		return false
	}
	shelved, err := p.client.Builds(ctx, &holdfastv1.ListBuildsRequest{States: []string{"shelved"}, Limit: 1000})
	if err != nil {
		return false
	}
	p.mu.Lock()
	p.underway, p.shelved, p.waiting = len(list), len(shelved), 0
	for _, b := range list {
		if o := p.asked[b.GetId()]; o != nil && len(o.spec.GetRequires()) > 0 && b.GetState() == "queued" {
			p.waiting++
		}
	}
	p.mu.Unlock()
	slaves, err := p.client.Slaves(ctx)
	if err != nil {
		return false
	}
	for _, s := range slaves.GetSlaves() {
		if s.GetQuarantinedUs() > 0 {
			_, _ = p.client.ChangeSlave(ctx, &holdfastv1.ChangeSlaveRequest{Slave: s.GetName(),
				Change: holdfastv1.ChangeSlaveRequest_CHANGE_RELEASE, Reason: "chaos", Who: "chaos", Epoch: s.GetEpoch()})
		}
	}
	if !shelf {
		return true
	}
	for _, b := range shelved {
		p.mu.Lock()
		o := p.asked[b.GetId()]
		p.mu.Unlock()
		if o == nil {
			continue // its submit was not confirmed yet
		}
		p.mu.Lock()
		o.looked++
		n := o.looked
		p.mu.Unlock()
		p.wg.Go(func() {
			if n > 1 {
				p.cancel(context.WithoutCancel(ctx), b.GetId())
				return
			}
			p.insist(context.WithoutCancel(ctx), "unshelve", func() error {
				p.mu.Lock()
				o.unshelved++ // each is a request of its own, and allows one more attempt
				p.mu.Unlock()
				_, err := p.client.Unshelve(context.WithoutCancel(ctx), b.GetId(), "chaos", "chaos")
				return err
			})
		})
	}
	return true
}

// told is what people were told, for the judge.
func (p *people) told() map[string]judge.Asked {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[string]judge.Asked, len(p.asked))
	for id, o := range p.asked {
		all[id] = judge.Asked{RerunNever: o.spec.GetRerun() == "never", Cancelled: o.cancelled, Unshelved: o.unshelved}
	}
	return all
}

func truthDir(dir string) string { return filepath.Join(dir, "truth") }

// sortedKeys makes what is read from a map the same each time.
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
