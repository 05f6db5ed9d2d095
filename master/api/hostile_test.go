package api_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"holdfast/master"
	"holdfast/master/lifecycle"
	"holdfast/master/mastertest"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// rawCodec sends bytes as they are, where the real one would not.
type rawCodec struct{}

var _ encoding.Codec = rawCodec{}

func (rawCodec) Name() string                       { return "proto" }
func (rawCodec) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }

// calls are all methods of the service; true: it answers with a stream.
var calls = map[string]bool{
	"SubmitBuild": false, "GetBuild": false, "ListBuilds": false, "CancelBuild": false, "UnshelveBuild": false, "ReprioritiseBuild": false,
	"ExplainBuild": false, "ListSlaves": false, "GetMaster": false, "ReadLog": true, "Watch": true,
}

// send calls a method with these bytes and returns how it ended. A stream that
// opens has not failed.
func send(r *mastertest.Rig, conn *grpc.ClientConn, method string, request []byte) error {
	r.Helper()
	name := "/holdfast.v1.ControlService/" + method
	opts := []grpc.CallOption{grpc.ForceCodec(rawCodec{}), grpc.WaitForReady(true)}
	var reply []byte
	if !calls[method] {
		return conn.Invoke(r.Context(), name, request, &reply, opts...)
	}
	stream, err := conn.NewStream(r.Context(), &grpc.StreamDesc{ServerStreams: true}, name, opts...)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(request); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if err := stream.RecvMsg(&reply); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// unharmed checks that a test has stored nothing and that others are served.
func unharmed(t *testing.T, r *mastertest.Rig) func() {
	t.Helper()
	look := func() (uint64, int) {
		n, err := r.Store.NewestEvent(r.Context())
		builds, err2 := r.Store.Builds(r.Context(), store.BuildFilter{Limit: 1000})
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		return n, len(builds)
	}
	r.Submit(1) // the master is up
	r.Until("quiet", func() bool { return r.Metric("holdfast_master_commit_queue_ops") == 0 })
	events, builds := look()
	return func() {
		t.Helper()
		if e, b := look(); e != events || b != builds {
			t.Errorf("stored: %d events and %d builds, before %d and %d", e, b, events, builds)
		}
		r.Cancel(r.Submit(1))
	}
}

// An id that is none is refused by every call, in words.
func TestHostileIDs(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	defer unharmed(t, r)()
	good := ulid.Make().String()
	for name, id := range map[string]string{
		"empty":            "",
		"space":            " ",
		"lower case":       strings.ToLower(good),
		"25 characters":    good[:25],
		"27 characters":    good + "0",
		"overflow":         strings.Repeat("Z", 26),
		"just overflow":    "8" + strings.Repeat("0", 25),
		"letters of none":  "01ARZ3NDEKTSV4RRFFQ69G5FIL",
		"NUL":              good[:25] + "\x00",
		"newline":          good[:25] + "\n",
		"trailing newline": good + "\n",
		"escape sequence":  "\x1b[2J" + good[4:],
		"unicode digits":   strings.Repeat("٣", 13),
		"path":             "../../../../etc/passwd0000",
		"SQL":              "' OR 1=1; DROP TABLE b; --",
		"format":           strings.Repeat("%s", 13),
		"enormous":         strings.Repeat("Z", 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			ctx := r.Context()
			check := func(call string, err error) {
				t.Helper()
				refused(t, err, rpcerr.Invalid, "is no build id: an id is a ULID")
				if t.Failed() {
					t.Fatalf("call: %s", call)
				}
			}
			_, err := r.Control.SubmitBuild(ctx, submission(func(r *holdfastv1.SubmitBuildRequest) { r.BuildId = id }))
			check("submit", err)
			_, err = r.Control.GetBuild(ctx, &holdfastv1.GetBuildRequest{BuildId: id})
			check("get", err)
			_, err = r.Control.CancelBuild(ctx, &holdfastv1.CancelBuildRequest{BuildId: id, Reason: "r", Who: "w"})
			check("cancel", err)
			_, err = r.Control.UnshelveBuild(ctx, &holdfastv1.UnshelveBuildRequest{BuildId: id, Reason: "r", Who: "w"})
			check("unshelve", err)
			_, err = r.Control.ReprioritiseBuild(ctx, &holdfastv1.ReprioritiseBuildRequest{BuildId: id, Reason: "r", Who: "w"})
			check("reprioritise", err)
			_, err = r.Control.ExplainBuild(ctx, &holdfastv1.ExplainBuildRequest{BuildId: id})
			check("explain", err)
			_, err = readLog(ctx, r.Control, &holdfastv1.ReadLogRequest{BuildId: id, Follow: true})
			check("log", err)
			if id == "" {
				return // means none to the others
			}
			_, err = r.Control.ListBuilds(ctx, &holdfastv1.ListBuildsRequest{BeforeId: id})
			check("list", err)
			_, _, err = watch(ctx, r.Control, &holdfastv1.WatchRequest{BuildId: id}, 0)
			check("watch", err)
		})
	}
}

// Words of people are bounded and fit for a line.
func TestHostileWords(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	build := r.Submit(1)
	defer unharmed(t, r)()
	for name, tt := range map[string]struct {
		submitter, who, key, reason string
		want                        string
	}{
		"submitter too long":    {submitter: strings.Repeat("a", 256), want: "submitter: at most 255 bytes of printable"},
		"submitter enormous":    {submitter: strings.Repeat("a", 3<<20), want: "submitter: at most 255 bytes"},
		"submitter, escape":     {submitter: "ann\x1b[2J", want: "submitter: at most 255 bytes of printable UTF-8, found"},
		"submitter, newline":    {submitter: "ann\nbob", want: "submitter"},
		"submitter, right-left": {submitter: "ann\u202egpj.exe", want: "submitter"},
		"who too long":          {who: strings.Repeat("a", 256), want: "who: at most 255 bytes"},
		"who, NUL":              {who: "a\x00", want: "who"},
		"who, escape":           {who: "\x9b2J", want: "the request cannot be decoded"},
		"who, C1 escape":        {who: "\u009b2J", want: "who"},
		"key too long":          {key: strings.Repeat("k", 256), want: "request key: at most 255 bytes"},
		"key, NUL":              {key: "\x00", want: "request key"},
		"reason too long":       {reason: strings.Repeat("r", 4097), want: "reason"},
		"reason of 1 MiB":       {reason: strings.Repeat("r", 1<<20), want: "reason"},
		"reason, NUL":           {reason: "a\x00b", want: "reason"},
	} {
		t.Run(name, func(t *testing.T) {
			conn := r.Dial()
			if tt.who == "" {
				req := submission(func(r *holdfastv1.SubmitBuildRequest) {
					r.RequestKey, r.Submitter, r.Spec.Reason = tt.key, tt.submitter, tt.reason
				})
				_, err := r.Control.SubmitBuild(r.Context(), req)
				refused(t, err, rpcerr.Invalid, tt.want)
			}
			if tt.submitter != "" {
				return
			}
			if tt.reason == "" {
				tt.reason = "why"
			}
			for _, method := range []string{"CancelBuild", "UnshelveBuild", "ReprioritiseBuild"} {
				var req []byte
				for i, text := range []string{build, tt.reason, tt.who, tt.key} { // fields 1 to 4
					req = protowire.AppendString(protowire.AppendTag(req, protowire.Number(i+1), protowire.BytesType), text)
				}
				refused(t, send(r, conn, method, req), rpcerr.Invalid, tt.want)
			}
		})
	}
	if s := get(r, build).GetState(); s != "queued" {
		t.Errorf("build %s", s)
	}
}

// A spec that cannot be right is refused with what was expected.
func TestHostileSpecs(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	defer unharmed(t, r)()
	labels := func(n int) map[string]string {
		m := make(map[string]string, n)
		for i := range n {
			m[fmt.Sprint("label-", i)] = "x"
		}
		return m
	}
	for name, tt := range map[string]struct {
		change func(*holdfastv1.BuildSpec)
		want   string
	}{
		"empty":                  {func(s *holdfastv1.BuildSpec) { proto.Reset(s) }, "name: expected 1 to 200 printable"},
		"no steps":               {func(s *holdfastv1.BuildSpec) { s.Steps = nil }, "steps: expected at least one step"},
		"1001 steps":             {func(s *holdfastv1.BuildSpec) { s.Steps = mastertest.Spec(1001).GetSteps() }, "steps: expected at most 1000 steps, found 1001"},
		"10001 steps":            {func(s *holdfastv1.BuildSpec) { s.Steps = mastertest.Spec(10001).GetSteps() }, "found 10001"},
		"thousands of labels":    {func(s *holdfastv1.BuildSpec) { s.Requires = labels(5000) }, "requires: expected at most 50 labels, found 5000"},
		"label with a space":     {func(s *holdfastv1.BuildSpec) { s.Requires = map[string]string{"o s": "x"} }, `requires["o s"]: expected a label`},
		"name, escape sequence":  {func(s *holdfastv1.BuildSpec) { s.Name = "\x1b]0;owned\a" }, `name: expected 1 to 200 printable characters without space around them, found "\x1b]0;owned\a"`},
		"name, newline":          {func(s *holdfastv1.BuildSpec) { s.Name = "a\nb" }, "name"},
		"name, enormous":         {func(s *holdfastv1.BuildSpec) { s.Name = strings.Repeat("é", 1<<20) }, "name: expected 1 to 200"},
		"step name, escape":      {func(s *holdfastv1.BuildSpec) { s.Steps[0].Name = "\x1b[31m" }, "steps[0].name"},
		"env with =":             {func(s *holdfastv1.BuildSpec) { s.Steps[0].Env = map[string]string{"A=B": "x"} }, `steps[0].env["A=B"]: expected the name of a variable`},
		"env without a name":     {func(s *holdfastv1.BuildSpec) { s.Steps[0].Env = map[string]string{"": "x"} }, "steps[0].env"},
		"env name with NUL":      {func(s *holdfastv1.BuildSpec) { s.Steps[0].Env = map[string]string{"A\x00": "x"} }, "steps[0].env"},
		"env value with NUL":     {func(s *holdfastv1.BuildSpec) { s.Steps[0].Env = map[string]string{"A": "\x00"} }, "steps[0].env.A: expected text without NUL"},
		"env of ours":            {func(s *holdfastv1.BuildSpec) { s.Steps[0].Env = map[string]string{"HOLDFAST_STEP": "x"} }, "another name"},
		"run with NUL":           {func(s *holdfastv1.BuildSpec) { s.Steps[0].Run = "true\x00" }, "steps[0].run: expected text without NUL"},
		"run too long":           {func(s *holdfastv1.BuildSpec) { s.Steps[0].Run = strings.Repeat("x", 1<<18) }, "steps[0].run: expected at most 131072 bytes"},
		"dir outside":            {func(s *holdfastv1.BuildSpec) { s.Steps[0].Dir = "../../etc" }, "below the workspace"},
		"negative time-out":      {func(s *holdfastv1.BuildSpec) { s.Steps[0].TimeoutUs = -1 }, "steps[0].timeout: expected a duration that is not negative"},
		"time-out that wraps":    {func(s *holdfastv1.BuildSpec) { s.Steps[0].TimeoutUs = 1<<61 + 5_000_000 }, "steps[0].timeout: expected a duration of at most 366 days"},
		"huge priority":          {func(s *holdfastv1.BuildSpec) { s.Priority = 1<<31 - 1 }, "priority: expected a number from -1000000 to 1000000"},
		"negative max_transient": {func(s *holdfastv1.BuildSpec) { s.Retry = &holdfastv1.RetryPolicy{MaxTransient: proto.Int32(-1)} }, "retry.max_transient"},
		"exit code 0":            {func(s *holdfastv1.BuildSpec) { s.Steps[0].RetryExitCodes = []int32{0} }, "retry_exit_codes[0]"},
		"exit codes, many":       {func(s *holdfastv1.BuildSpec) { s.Steps[0].RetryExitCodes = make([]int32, 1_000_000) }, "at most 255 exit codes"},
		"words, many": {func(s *holdfastv1.BuildSpec) {
			s.Steps[0] = &holdfastv1.StepSpec{Name: "a", Command: make([]string, 1_000_000)}
		}, "at most 4096 words"},
		"unknown rerun":    {func(s *holdfastv1.BuildSpec) { s.Rerun = "nevr" }, `rerun: expected auto or never, found "nevr"`},
		"everything wrong": {func(s *holdfastv1.BuildSpec) { proto.Reset(s); s.Steps = make([]*holdfastv1.StepSpec, 1000) }, "more problems"},
	} {
		t.Run(name, func(t *testing.T) {
			req := submission(func(r *holdfastv1.SubmitBuildRequest) { tt.change(r.Spec) })
			for i, s := range req.GetSpec().GetSteps() {
				if s == nil {
					req.Spec.Steps[i] = &holdfastv1.StepSpec{}
				}
			}
			_, err := r.Control.SubmitBuild(r.Context(), req)
			refused(t, err, rpcerr.Invalid, "spec: ", tt.want)
		})
	}
	_, err := r.Control.SubmitBuild(r.Context(), submission(func(r *holdfastv1.SubmitBuildRequest) { r.Spec = nil }))
	refused(t, err, rpcerr.Invalid, "no spec")
}

// What is no message is the caller's fault, not a failure of the master; what is
// too large is told the limit.
func TestUndecodableRequests(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	defer unharmed(t, r)()
	conn := r.Dial()
	badText := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "\xff\xfe")
	for method := range calls {
		refused(t, send(r, conn, method, []byte("\x0a\xff\xff")), rpcerr.Invalid, "the request cannot be decoded")
		switch method {
		case "ListSlaves", "GetMaster", "Watch": // field 1 is no text
		default:
			refused(t, send(r, conn, method, badText), rpcerr.Invalid, "the request cannot be decoded", "invalid UTF-8")
		}
		// gRPC answers this before anybody is asked.
		if err := send(r, conn, method, make([]byte, 4<<20+1)); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "larger than max (4194305 vs. 4194304)") {
			t.Errorf("%s: too large: %v", method, err)
		}
	}
	ctx := metadata.AppendToOutgoingContext(r.Context(), "x", strings.Repeat("x", 100<<10))
	if _, err := r.Control.GetMaster(ctx, &holdfastv1.GetMasterRequest{}); err == nil {
		t.Error("100 KiB of metadata are taken")
	}
}

// Damaged requests are refused, or mean something else; none is the master's
// fault, and none ends it.
func TestDamagedRequests(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	build := r.Submit(1)
	conn := r.Dial()
	requests := map[string]proto.Message{
		"SubmitBuild":       submission(func(r *holdfastv1.SubmitBuildRequest) { r.RequestKey = "k" }),
		"GetBuild":          &holdfastv1.GetBuildRequest{BuildId: build},
		"ListBuilds":        &holdfastv1.ListBuildsRequest{BeforeId: build, Limit: 3, States: []string{"queued"}, WithAttempts: true},
		"CancelBuild":       &holdfastv1.CancelBuildRequest{BuildId: build, Reason: "r", Who: "w", RequestKey: "c"},
		"UnshelveBuild":     &holdfastv1.UnshelveBuildRequest{BuildId: build, Reason: "r", Who: "w", RequestKey: "u"},
		"ReprioritiseBuild": &holdfastv1.ReprioritiseBuildRequest{BuildId: build, Reason: "r", Who: "w", RequestKey: "p", Priority: 7},
		"ExplainBuild":      &holdfastv1.ExplainBuildRequest{BuildId: build},
		"ReadLog":           &holdfastv1.ReadLogRequest{BuildId: build, AttemptNumber: 1, StepNumber: 1, Offset: 1},
		"Watch":             &holdfastv1.WatchRequest{Since: 1, Topics: []string{"build"}, BuildId: build, StopAtNewest: true},
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for method, m := range requests {
		whole, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		for range 60 {
			damaged := append([]byte(nil), whole...)
			for range 1 + rng.IntN(3) {
				switch at := rng.IntN(len(damaged)); rng.IntN(4) {
				case 0:
					damaged[at] = byte(rng.Uint32())
				case 1:
					damaged[at] ^= 1 << rng.IntN(8)
				case 2:
					damaged = damaged[:max(at, 1)]
				default:
					damaged = append(damaged[:at:at], damaged[max(at-5, 0):]...)
				}
			}
			err := send(r, conn, method, damaged)
			if err != nil && !rpcerr.Is(err, rpcerr.Invalid, rpcerr.NotFound, rpcerr.BadState, rpcerr.Conflict, rpcerr.WrongStore) {
				t.Errorf("%s(%q): %v", method, damaged, err)
			}
		}
	}
	r.Submit(1)
}

// settled returns by how much the live heap grows from start to the point where
// it stays as it is.
func settled(t *testing.T, start func()) int64 {
	t.Helper()
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // pools empty in two
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	start()
	last := heap()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); {
		time.Sleep(100 * time.Millisecond)
		now := heap()
		if now-last < (now-before)/50 {
			return now - before
		}
		last = now
	}
	t.Fatal("the heap does not settle")
	return 0
}

// dialer makes clients that take little before it is read, and do not grow that
// by themselves. Its serve is for mastertest.Start.
type dialer struct{ lis *bufconn.Listener }

func (d *dialer) serve(cfg *master.Config) { d.lis = cfg.Listener.(*bufconn.Listener) }

func (d *dialer) dial(t *testing.T) holdfastv1.ControlServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///master",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return d.lis.DialContext(ctx) }),
		grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return holdfastv1.NewControlServiceClient(conn)
}

// A message of empty steps must not become a hundred times as much memory. Not
// parallel: it counts what the process allocates.
func TestStepBomb(t *testing.T) {
	r := mastertest.Start(t, nil)
	defer unharmed(t, r)()
	conn := r.Dial()
	const steps = 2_000_000
	spec := []byte(strings.Repeat("\x5a\x00", steps)) // field 11, empty
	bomb := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), ulid.Make().String())
	bomb = protowire.AppendBytes(protowire.AppendTag(bomb, 3, protowire.BytesType), spec[:steps])
	bomb = protowire.AppendBytes(protowire.AppendTag(bomb, 3, protowire.BytesType), spec[steps:]) // fields merge
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	refused(t, send(r, conn, "SubmitBuild", bomb), rpcerr.Invalid, "steps: expected at most 1000 steps, found 2000000")
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 60<<20 {
		t.Errorf("%d MiB allocated for a request of 4 MiB", n>>20)
	}
}

// Streams that nobody reads cost bounded memory each and hold up nobody else;
// those above the limit are refused. Not parallel: it looks at the heap.
func TestWatchersThatNeverRead(t *testing.T) {
	watchers, limit := 100, 100
	if os.Getenv("HOLDFAST_SLOW") != "" {
		watchers, limit = 10_000, 5000
	}
	var d dialer
	r := mastertest.Start(t, d.serve)
	long := strings.Repeat("r", 4000)
	for range 100 { // more than what gRPC takes off our hands
		build := r.Submit(1)
		if _, err := r.Control.CancelBuild(r.Context(), &holdfastv1.CancelBuildRequest{BuildId: build, Reason: long, Who: "ann"}); err != nil {
			t.Fatal(err)
		}
	}
	each := settled(t, func() {
		var client holdfastv1.ControlServiceClient
		for i := range watchers {
			if i%900 == 0 {
				client = d.dial(t)
			}
			if _, err := client.Watch(t.Context(), &holdfastv1.WatchRequest{}, grpc.WaitForReady(true)); err != nil {
				t.Fatal(err)
			}
		}
		r.Until("streams", func() bool { return r.Metric("holdfast_api_streams_open") >= float64(limit) })
	}) / int64(limit)
	t.Logf("%d KiB for each, those of their clients included", each>>10)
	if each > 600<<10 {
		t.Error("too much")
	}
	began := time.Now()
	build := r.Submit(1)
	get(r, build)
	r.Cancel(build)
	t.Logf("others are served within %v", time.Since(began))
	if watchers > limit {
		_, _, err := watch(r.Context(), r.Control, &holdfastv1.WatchRequest{}, 0)
		refused(t, err, rpcerr.NotReady, "5000 streams", "try again later")
	}
}

// Readers of a log that do not read hold up neither the slave nor one another,
// and have missed nothing when they go on. Not parallel: it looks at the heap.
func TestSlowReadersOfALog(t *testing.T) {
	var d dialer
	r := mastertest.Start(t, d.serve)
	s := r.NewSlave("b1", 1).MustConnect()
	build := r.Submit(1)
	st := s.Run()
	st.Start(0)
	st.SendAll()
	const readers, chunks = 20, 24
	client := d.dial(t)
	var streams []grpc.ServerStreamingClient[holdfastv1.ReadLogResponse]
	var all strings.Builder
	each := settled(t, func() {
		for range readers {
			stream, err := client.ReadLog(t.Context(), &holdfastv1.ReadLogRequest{BuildId: build, Follow: true}, grpc.WaitForReady(true))
			if err != nil {
				t.Fatal(err)
			}
			streams = append(streams, stream)
		}
		for i := range chunks {
			text := strings.Repeat(fmt.Sprintf("%015d\n", i), 64<<10/16)
			all.WriteString(text)
			st.Log(0, text)
			st.AwaitLogAck(0, int64(all.Len()))
		}
	}) / readers
	t.Logf("%d KiB for each, those of their clients included", each>>10)
	if each > 800<<10 {
		t.Error("too much")
	}
	st.EndStep(0, 0)
	st.EndAttempt(holdfastv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, "")
	st.SendAll()
	r.UntilBuild(build, "succeeded", func(rec *lifecycle.Record) bool { return rec.Build.State == lifecycle.BuildSucceeded })
	for i, stream := range streams {
		var got strings.Builder
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("reader %d: %v", i, err)
			}
			got.Write(m.GetData())
		}
		if got.String() != all.String() {
			t.Errorf("reader %d has %d bytes of %d", i, got.Len(), all.Len())
		}
	}
}
