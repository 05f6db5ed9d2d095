package client

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// fakeMaster is a ControlService over a build that the test moves along.
type fakeMaster struct {
	holdfastv1.UnimplementedControlServiceServer

	mu      sync.Mutex
	changed chan struct{} // closed and replaced with each change
	build   *holdfastv1.Build
	logs    map[[2]uint32][]byte
	over    map[[2]uint32]bool // the log is whole
	events  uint64
	submits []*holdfastv1.SubmitBuildRequest
	lose    int     // replies of SubmitBuild to lose
	fail    []error // what SubmitBuild and ExplainBuild answer first
	storeID string
}

func newFakeMaster() *fakeMaster {
	return &fakeMaster{
		changed: make(chan struct{}), logs: map[[2]uint32][]byte{}, over: map[[2]uint32]bool{},
		build: &holdfastv1.Build{Id: NewID(), Name: "fake", State: "queued"}, storeID: "S1",
	}
}

// change runs fn and tells all who wait.
func (f *fakeMaster) change(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
	f.events++
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeMaster) attempt(state string, steps int) {
	f.change(func() {
		a := &holdfastv1.Attempt{Number: uint32(len(f.build.Attempts) + 1), Slave: "b7", State: state}
		for i := range steps {
			a.Steps = append(a.Steps, &holdfastv1.Step{Number: uint32(i + 1), Name: "s", State: "pending"})
		}
		f.build.Attempts = append(f.build.Attempts, a)
	})
}

func (f *fakeMaster) say(attempt, step uint32, text string) {
	f.change(func() {
		f.logs[[2]uint32{attempt, step}] = append(f.logs[[2]uint32{attempt, step}], text...)
	})
}

func (f *fakeMaster) GetMaster(context.Context, *holdfastv1.GetMasterRequest) (*holdfastv1.GetMasterResponse, error) {
	return &holdfastv1.GetMasterResponse{MasterId: "M"}, nil
}

func (f *fakeMaster) SubmitBuild(_ context.Context, req *holdfastv1.SubmitBuildRequest) (*holdfastv1.SubmitBuildResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.submits = append(f.submits, req)
	if f.lose > 0 {
		f.lose--
		panic(http2Abort)
	}
	if err := f.failure(); err != nil {
		return nil, err
	}
	return &holdfastv1.SubmitBuildResponse{BuildId: req.GetBuildId(), Already: len(f.submits) > 1}, nil
}

// failure takes the next of fail; f.mu is held.
func (f *fakeMaster) failure() error {
	if len(f.fail) == 0 {
		return nil
	}
	err := f.fail[0]
	f.fail = f.fail[1:]
	return err
}

// http2Abort makes the test's interceptor cut the connection instead of replying.
const http2Abort = "cut"

func (f *fakeMaster) GetBuild(_ context.Context, req *holdfastv1.GetBuildRequest) (*holdfastv1.GetBuildResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if req.GetBuildId() != f.build.GetId() {
		return nil, rpcerr.New(rpcerr.NotFound, "build %s: not found", req.GetBuildId())
	}
	return &holdfastv1.GetBuildResponse{Build: clone(f.build)}, nil
}

func (f *fakeMaster) ExplainBuild(context.Context, *holdfastv1.ExplainBuildRequest) (*holdfastv1.ExplainBuildResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.failure(); err != nil {
		return nil, err
	}
	return &holdfastv1.ExplainBuildResponse{Lines: []string{"The build is queued: for a test."}}, nil
}

func (f *fakeMaster) ReadLog(req *holdfastv1.ReadLogRequest, stream holdfastv1.ControlService_ReadLogServer) error {
	at := [2]uint32{req.GetAttemptNumber(), req.GetStepNumber()}
	offset := req.GetOffset()
	for {
		f.mu.Lock()
		data, over, changed := f.logs[at], f.over[at], f.changed
		f.mu.Unlock()
		for offset < int64(len(data)) {
			n := min(int64(len(data))-offset, 1+rand.Int64N(700))
			if err := stream.Send(&holdfastv1.ReadLogResponse{
				AttemptNumber: at[0], StepNumber: at[1], Offset: offset, Data: data[offset : offset+n],
			}); err != nil {
				return err
			}
			offset += n
		}
		if over || !req.GetFollow() {
			return nil
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func (f *fakeMaster) Watch(req *holdfastv1.WatchRequest, stream holdfastv1.ControlService_WatchServer) error {
	f.mu.Lock()
	newest, store := f.events, f.storeID
	f.mu.Unlock()
	since := req.GetSince()
	if req.GetFromNow() {
		since = newest
	}
	if err := stream.Send(&holdfastv1.WatchResponse{Message: &holdfastv1.WatchResponse_Opened_{
		Opened: &holdfastv1.WatchResponse_Opened{Newest: newest, StoreId: store},
	}}); err != nil {
		return err
	}
	for {
		f.mu.Lock()
		now, changed := f.events, f.changed
		f.mu.Unlock()
		for ; since < now && (!req.GetStopAtNewest() || since < newest); since++ {
			if err := stream.Send(&holdfastv1.WatchResponse{Message: &holdfastv1.WatchResponse_Event{
				Event: &holdfastv1.Event{N: since + 1, Topic: "build.test"},
			}}); err != nil {
				return err
			}
		}
		if req.GetStopAtNewest() {
			return nil
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// serve starts a master and returns its address.
func serve(t *testing.T, f *fakeMaster) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cuts := &connections{Listener: l}
	server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
		defer func() {
			if r := recover(); r == http2Abort {
				cuts.cut()
				err = rpcerr.New(rpcerr.Internal, "the reply that nobody hears")
			} else if r != nil {
				panic(r)
			}
		}()
		return handle(ctx, req)
	}))
	holdfastv1.RegisterControlServiceServer(server, f)
	go server.Serve(cuts)
	t.Cleanup(server.Stop)
	return l.Addr().String()
}

// connections cuts all that were accepted.
type connections struct {
	net.Listener
	mu  sync.Mutex
	all []net.Conn
}

func (c *connections) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.mu.Lock()
		c.all = append(c.all, conn)
		c.mu.Unlock()
	}
	return conn, err
}

func (c *connections) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.all {
		conn.Close()
	}
	c.all = nil
}

// cuttingProxy forwards to addr and cuts each connection after a random number
// of bytes from the master, as long as it is told to.
func cuttingProxy(t *testing.T, addr string, least, span int64, cuts int) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			limit := int64(-1)
			if cuts > 0 {
				cuts--
				limit = least + rand.Int64N(span)
			}
			wg.Go(func() {
				defer conn.Close()
				up, err := net.Dial("tcp", addr)
				if err != nil {
					return
				}
				defer up.Close()
				stop := context.AfterFunc(ctx, func() { conn.Close(); up.Close() })
				defer stop()
				wg.Go(func() {
					_, _ = io.Copy(up, conn)
					up.Close()
				})
				if limit < 0 {
					_, _ = io.Copy(conn, up)
				} else {
					_, _ = io.CopyN(conn, up, limit)
				}
			})
		}
	})
	return l.Addr().String()
}

func dial(t *testing.T, addr string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), Config{Addr: addr, Patience: 10 * time.Second, Waiting: func(why string) { t.Log("waiting:", why) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
