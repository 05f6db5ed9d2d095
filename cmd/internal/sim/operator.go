package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// operator is the people: they submit, cancel and unshelve, and look after the
// slaves, over a network as bad as everybody's. What they were told to be done is kept for the end.
type operator struct {
	cable     *cable
	addresses []string // of the masters
	profile   *Profile

	mu        sync.Mutex
	rng       *rand.Rand // guarded by mu
	ids       entropy
	wg        sync.WaitGroup
	builds    map[string]*holdfastv1.BuildSpec // by id: the submit was confirmed
	cancelled map[string]bool                  // the cancel was confirmed
	unshelved map[string]int
	storeBack map[string]bool                              // the store was put back to before its submit
	changed   map[holdfastv1.ChangeSlaveRequest_Change]int // of slaves
	requests  int                                          // tries, lost replies included
	err       error
}

func newOperator(c *cable, addresses []string, p *Profile, rng *rand.Rand) *operator {
	return &operator{
		cable: c, addresses: addresses, profile: p, rng: rng, ids: entropy{fork(rng)},
		builds: make(map[string]*holdfastv1.BuildSpec), cancelled: make(map[string]bool), unshelved: make(map[string]int), storeBack: make(map[string]bool),
		changed: make(map[holdfastv1.ChangeSlaveRequest_Change]int),
	}
}

// work goes on until ctx ends and then waits for what has been begun. Rate is
// in builds a day.
func (o *operator) work(ctx context.Context, rate float64) {
	defer o.wg.Wait()
	next := time.After(o.draw(func(r *rand.Rand) time.Duration { return gap(r, rate) }))
	look := time.After(o.draw(func(r *rand.Rand) time.Duration { return gap(r, 0.5+rate/40) }))
	for {
		select {
		case <-ctx.Done():
			return
		case <-next:
			next = time.After(o.draw(func(r *rand.Rand) time.Duration { return gap(r, rate) }))
			o.mu.Lock()
			spec := o.profile.spec(o.rng)
			var cancelAfter time.Duration
			if o.rng.Float64() < o.profile.Cancels {
				cancelAfter = between(o.rng, time.Millisecond, o.profile.Lasts[1])
			}
			o.mu.Unlock()
			o.wg.Go(func() {
				id := o.submit(context.WithoutCancel(ctx), spec)
				if cancelAfter > 0 {
					time.Sleep(cancelAfter)
					o.cancel(context.WithoutCancel(ctx), id)
				}
			})
		case <-look:
			look = time.After(o.draw(func(r *rand.Rand) time.Duration { return gap(r, 0.5+rate/40) }))
			o.wg.Go(func() {
				o.lookAtShelf(context.WithoutCancel(ctx))
				o.lookAtFarm(context.WithoutCancel(ctx), o.profile.Meddles)
			})
		}
	}
}

func (o *operator) draw(fn func(*rand.Rand) time.Duration) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	return fn(o.rng)
}

// submit asks for a build until somebody confirms it (P-submit).
func (o *operator) submit(ctx context.Context, spec *holdfastv1.BuildSpec) string {
	o.mu.Lock()
	id := ulid.MustNew(ulid.Now(), o.ids).String()
	o.mu.Unlock()
	o.ask(ctx, "submit", func(ctx context.Context, c holdfastv1.ControlServiceClient) error {
		resp, err := c.SubmitBuild(ctx, &holdfastv1.SubmitBuildRequest{BuildId: id, RequestKey: "submit-" + id, Spec: spec, Submitter: "sim"})
		if err == nil && resp.GetBuildId() != id {
			return fmt.Errorf("submitted %s, told %s", id, resp.GetBuildId())
		}
		return err
	})
	o.mu.Lock()
	defer o.mu.Unlock()
	o.builds[id] = spec
	return id
}

// cancel cancels a build; one that has ended meanwhile stays as it is.
func (o *operator) cancel(ctx context.Context, id string) {
	var state string
	o.ask(ctx, "cancel", func(ctx context.Context, c holdfastv1.ControlServiceClient) error {
		resp, err := c.CancelBuild(ctx, &holdfastv1.CancelBuildRequest{BuildId: id, Reason: "sim", Who: "sim", RequestKey: "cancel-" + id})
		state = resp.GetState()
		if rpcerr.Is(err, rpcerr.NotFound) && o.mayBeUnknown(id) {
			return nil
		}
		return err
	})
	if state == "cancelled" {
		o.mu.Lock()
		o.cancelled[id] = true
		o.mu.Unlock()
	}
}

// lookAtShelf gives each shelved build another chance or two, then cancels it.
func (o *operator) lookAtShelf(ctx context.Context) {
	var shelved []string
	o.ask(ctx, "shelf", func(ctx context.Context, c holdfastv1.ControlServiceClient) error {
		resp, err := c.ListBuilds(ctx, &holdfastv1.ListBuildsRequest{States: []string{"shelved"}, Limit: 20})
		for _, b := range resp.GetBuilds() {
			shelved = append(shelved, b.GetId())
		}
		return err
	})
	for _, id := range shelved {
		o.mu.Lock()
		o.unshelved[id]++
		n := o.unshelved[id]
		o.mu.Unlock()
		if n > 2 {
			o.cancel(ctx, id)
			continue
		}
		o.ask(ctx, "unshelve", func(ctx context.Context, c holdfastv1.ControlServiceClient) error {
			_, err := c.UnshelveBuild(ctx, &holdfastv1.UnshelveBuildRequest{
				BuildId: id, Reason: "sim", Who: "sim", RequestKey: fmt.Sprintf("unshelve-%s-%d", id, n),
			})
			if rpcerr.Is(err, rpcerr.NotFound) && o.mayBeUnknown(id) {
				return nil
			}
			return err
		})
	}
}

// ask repeats the same request until it is answered. A refusal is an answer:
// the build has ended or was adopted meanwhile.
func (o *operator) ask(ctx context.Context, what string, request func(context.Context, holdfastv1.ControlServiceClient) error) {
	wait := time.Second + o.profile.Times.ReconnectBase
	for ctx.Err() == nil {
		o.mu.Lock()
		o.requests++
		address := o.addresses[o.requests%len(o.addresses)] // the next one, each time
		o.mu.Unlock()
		err := o.once(ctx, address, request)
		switch {
		case err == nil, rpcerr.Is(err, rpcerr.BadState):
			return
		case rpcerr.Is(err, rpcerr.Conflict, rpcerr.Invalid, rpcerr.Internal, rpcerr.NotFound):
			o.mu.Lock()
			o.err = errors.Join(o.err, fmt.Errorf("%s: %w", what, err))
			o.mu.Unlock()
			return
		}
		time.Sleep(wait + o.draw(func(r *rand.Rand) time.Duration { return span(r, wait) }))
		wait = min(2*wait, max(time.Minute, o.profile.Times.ReconnectCap))
	}
}

// mayBeUnknown: the store was put back to before its submit, or it is one that the
// store had recovered, and was put back again.
func (o *operator) mayBeUnknown(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.storeBack[id] || o.builds[id] == nil
}

// once makes one request on a connection of its own.
func (o *operator) once(ctx context.Context, address string, request func(context.Context, holdfastv1.ControlServiceClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	client, err := dialControl(o.cable, address)
	if err != nil {
		return err
	}
	defer client.Close()
	return request(ctx, holdfastv1.NewControlServiceClient(client))
}

func dialControl(c *cable, address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address,
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return c.dial(ctx, address) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithIdleTimeout(0),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: 10 * time.Second}))
}
