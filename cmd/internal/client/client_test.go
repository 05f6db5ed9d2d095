package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

func clone[M proto.Message](m M) M { return proto.CloneOf(m) }

func TestDialUnreachable(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	babbler, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer babbler.Close()
	go func() {
		for {
			conn, err := babbler.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
			conn.Close()
		}
	}()
	for name, addr := range map[string]string{"refused": closed.Addr().String(), "silent": silent.Addr().String(), "no gRPC": babbler.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			told := make(chan time.Time, 10)
			began := time.Now()
			_, err := Dial(t.Context(), Config{Addr: addr, Patience: time.Second, Waiting: func(string) { told <- time.Now() }})
			var unreachable *UnreachableError
			if !errors.As(err, &unreachable) || unreachable.Unknown || !strings.Contains(err.Error(), addr) {
				t.Errorf("got %v, want unreachable, with the address, and nothing unknown", err)
			}
			if strings.Contains(err.Error(), "desc =") {
				t.Errorf("gRPC's words reach people: %v", err)
			}
			if took := time.Since(began); took < 900*time.Millisecond || took > 3*time.Second {
				t.Errorf("took %v", took)
			}
			if len(told) != 1 {
				t.Fatalf("told %d times that it waits", len(told))
			}
			if after := (<-told).Sub(began); after > 700*time.Millisecond {
				t.Errorf("told only after %v", after)
			}
		})
	}
}

func TestCheckAddr(t *testing.T) {
	for addr, ok := range map[string]bool{
		"localhost:7400": true, "[::1]:7400": true, "10.0.0.1:1": true,
		"": false, "not-an-address": false, ":7400": false, "host:": false, "host:http": false, "host:0": false, "host:65536": false,
	} {
		if err := CheckAddr(addr); (err == nil) != ok || err != nil && !errors.Is(err, ErrAddress) {
			t.Errorf("%q: %v", addr, err)
		}
	}
}

// P-submit: a lost reply never makes a second build.
func TestSubmitRepeatsTheSameRequest(t *testing.T) {
	t.Parallel()
	f := newFakeMaster()
	f.lose = 2
	c := dial(t, serve(t, f))
	resp, err := c.Submit(t.Context(), &holdfastv1.SubmitBuildRequest{RequestKey: "k", Spec: &holdfastv1.BuildSpec{Name: "n"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(f.submits) != 3 {
		t.Fatalf("%d requests, want 3", len(f.submits))
	}
	for _, s := range f.submits {
		if !proto.Equal(s, f.submits[0]) || s.GetBuildId() != resp.GetBuildId() {
			t.Errorf("request %v differs from the first one", s)
		}
	}
}

// An answer without a reason, such as gRPC gives when a reply breaks on its way,
// is no answer: the outcome is unknown, and the same request is sent again. So is
// an order's when the master says that it has failed (P-submit P49).
func TestUnknownOutcomeIsRepeated(t *testing.T) {
	t.Parallel()
	broken := []error{
		status.Error(codes.Internal, "unexpected EOF"), status.Error(codes.Unknown, "stream reset"),
		status.Error(codes.Unavailable, "connection closed"), rpcerr.New(rpcerr.NotReady, "not now"),
	}
	t.Run("order", func(t *testing.T) {
		t.Parallel()
		f := newFakeMaster()
		f.fail = append(broken, rpcerr.New(rpcerr.Internal, "the store has failed"))
		tries := len(f.fail) + 1
		c := dial(t, serve(t, f))
		if _, err := c.Submit(t.Context(), &holdfastv1.SubmitBuildRequest{RequestKey: "k", Spec: &holdfastv1.BuildSpec{Name: "n"}}); err != nil {
			t.Error(err)
		}
		if len(f.submits) != tries {
			t.Fatalf("%d requests, want %d", len(f.submits), tries)
		}
		for _, s := range f.submits {
			if !proto.Equal(s, f.submits[0]) {
				t.Errorf("request %v differs from the first one", s)
			}
		}
	})
	t.Run("question", func(t *testing.T) {
		t.Parallel()
		f := newFakeMaster()
		f.fail = broken
		c := dial(t, serve(t, f))
		if _, err := c.Explain(t.Context(), f.build.GetId()); err != nil {
			t.Error(err)
		}
	})
	t.Run("a master that has failed", func(t *testing.T) {
		t.Parallel()
		f := newFakeMaster()
		f.fail = []error{rpcerr.New(rpcerr.Internal, "damaged")}
		c := dial(t, serve(t, f))
		if _, err := c.Explain(t.Context(), f.build.GetId()); !rpcerr.Is(err, rpcerr.Internal) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("never answered", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			conn, err := grpc.NewClient("passthrough:///master", grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			c := &Client{cfg: Config{Addr: "master:1", Patience: time.Second, Waiting: func(string) {}}, conn: conn}
			_, err = order(t.Context(), c, func(context.Context) (int, error) { return 0, status.Error(codes.Internal, "unexpected EOF") })
			var unreachable *UnreachableError
			if !errors.As(err, &unreachable) || !unreachable.Unknown {
				t.Errorf("got %v", err)
			}
		})
	})
}

func TestRefusalIsFinal(t *testing.T) {
	t.Parallel()
	c := dial(t, serve(t, newFakeMaster()))
	if _, err := c.Build(t.Context(), NewID()); !rpcerr.Is(err, rpcerr.NotFound) {
		t.Errorf("got %v", err)
	}
	// A method of a later version.
	var unimplemented error
	_, unimplemented = c.Slaves(t.Context())
	if !errors.Is(unimplemented, ErrNoMaster) {
		t.Errorf("got %v", unimplemented)
	}
}

// The log is the same over any number of cuts at any byte.
func TestReadLogOverCuts(t *testing.T) {
	t.Parallel()
	f := newFakeMaster()
	f.attempt("running", 1)
	var want bytes.Buffer
	for i := range 4000 {
		fmt.Fprintf(&want, "line %d of the log\n", i)
	}
	at := [2]uint32{1, 1}
	c := dial(t, cuttingProxy(t, serve(t, f), 200, 6000, 40))
	go func() {
		for rest := want.Bytes(); len(rest) > 0; {
			n := min(2500, len(rest))
			f.change(func() { f.logs[at] = append(f.logs[at], rest[:n]...) })
			rest = rest[n:]
			time.Sleep(time.Millisecond)
		}
		f.change(func() { f.over[at] = true })
	}()
	var got bytes.Buffer
	err := c.ReadLog(t.Context(), LogRange{Build: f.build.GetId(), Attempt: 1, Step: 1, Follow: true}, func(offset int64, data []byte) error {
		if offset != int64(got.Len()) {
			t.Errorf("offset %d after %d bytes", offset, got.Len())
		}
		got.Write(data)
		return nil
	})
	if err != nil || !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Errorf("err %v, %d bytes of %d", err, got.Len(), want.Len())
	}
	// The same without following, from the middle.
	got.Reset()
	from := int64(want.Len() / 2)
	err = c.ReadLog(t.Context(), LogRange{Build: f.build.GetId(), Attempt: 1, Step: 1, Offset: from}, func(_ int64, data []byte) error {
		got.Write(data)
		return nil
	})
	if err != nil || !bytes.Equal(got.Bytes(), want.Bytes()[from:]) {
		t.Errorf("err %v, %d bytes of %d", err, got.Len(), int64(want.Len())-from)
	}
}

// A reader that is slower than the patience, a pager say, is not cut off.
func TestReadLogSlowReader(t *testing.T) {
	t.Parallel()
	f := newFakeMaster()
	f.attempt("succeeded", 1)
	f.say(1, 1, strings.Repeat("x", 3000))
	c := dial(t, serve(t, f))
	c.cfg.Patience = 100 * time.Millisecond
	total := 0
	err := c.ReadLog(t.Context(), LogRange{Build: f.build.GetId(), Attempt: 1, Step: 1}, func(_ int64, data []byte) error {
		if total == 0 {
			time.Sleep(300 * time.Millisecond)
		}
		total += len(data)
		return nil
	})
	if err != nil || total != 3000 {
		t.Errorf("err %v, %d bytes", err, total)
	}
}

func TestReadLogCallersError(t *testing.T) {
	t.Parallel()
	f := newFakeMaster()
	f.attempt("succeeded", 1)
	f.say(1, 1, "text")
	c := dial(t, serve(t, f))
	full := errors.New("disk full")
	for _, follow := range []bool{false, true} {
		err := c.ReadLog(t.Context(), LogRange{Build: f.build.GetId(), Attempt: 1, Step: 1, Follow: follow}, func(int64, []byte) error { return full })
		if !errors.Is(err, full) {
			t.Errorf("follow %v: got %v", follow, err)
		}
	}
}

func TestWatchOverCuts(t *testing.T) {
	t.Parallel()
	f := newFakeMaster()
	c := dial(t, cuttingProxy(t, serve(t, f), 100, 1500, 20))
	const n = 500
	go func() {
		for range n {
			f.change(func() {})
			time.Sleep(time.Millisecond)
		}
	}()
	enough := errors.New("enough")
	next := uint64(1)
	err := c.Watch(t.Context(), EventQuery{Follow: true}, func(m *holdfastv1.WatchResponse) error {
		if got := m.GetEvent().GetN(); got != next {
			return fmt.Errorf("event %d, want %d", got, next)
		}
		if next++; next > n {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Error(err)
	}
	// Without follow it ends with the newest.
	seen := 0
	if err := c.Watch(t.Context(), EventQuery{Since: 100}, func(*holdfastv1.WatchResponse) error { seen++; return nil }); err != nil || seen != n-100 {
		t.Errorf("err %v, %d events", err, seen)
	}
}

func TestWatchAnotherStore(t *testing.T) {
	t.Parallel()
	f := newFakeMaster()
	c := dial(t, cuttingProxy(t, serve(t, f), 600, 1, 1))
	f.change(func() {})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	opened := 0
	err := c.Watch(ctx, EventQuery{Follow: true, Opened: func() error {
		opened++
		return nil
	}}, func(*holdfastv1.WatchResponse) error {
		f.change(func() { f.storeID = "S2" }) // which brings the next event, and so the cut
		return nil
	})
	if !rpcerr.Is(err, rpcerr.WrongStore) || opened != 1 {
		t.Errorf("got %v after %d openings", err, opened)
	}
}
