package link

import (
	"bytes"
	"errors"
	"runtime"
	"testing"

	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	holdfastv1 "holdfast/proto/holdfast/v1"
)

// P-limits: a message of a few MiB whose parts are all empty costs no more
// memory than its bytes allow for.
func TestManyParts(t *testing.T) {
	hello := (&holdfastv1.ConnectRequest{}).ProtoReflect().Descriptor().Fields().ByName("hello")
	attempts := hello.Message().Fields().ByName("attempts")
	steps := attempts.Message().Fields().ByName("steps")
	empty := func(number protowire.Number, count int) []byte {
		return bytes.Repeat(protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), nil), count)
	}
	within := func(number protowire.Number, inner []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), inner)
	}
	for _, c := range []struct {
		name  string
		count int
		bad   bool
	}{{"as many as may be", maxParts - 2, false}, {"one more", maxParts - 1, true}, {"4 MiB", 2 << 20, true}} {
		for where, data := range map[string][]byte{
			"attempts":             within(hello.Number(), append(empty(attempts.Number(), c.count), within(attempts.Number(), nil)...)),
			"steps of one attempt": within(hello.Number(), within(attempts.Number(), empty(steps.Number(), c.count))),
		} {
			t.Run(c.name+" "+where, func(t *testing.T) {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				req := new(holdfastv1.ConnectRequest)
				err := Codec(encoding.GetCodecV2(grpcproto.Name)).Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, req)
				runtime.ReadMemStats(&after)
				if err := errors.Join(err, checkDecoded(req)); (err != nil) != c.bad {
					t.Fatalf("%d parts in %d bytes: %v", c.count+2, len(data), err)
				}
				if grown := after.TotalAlloc - before.TotalAlloc; grown > 96<<20 {
					t.Fatalf("%d bytes made %d MiB", len(data), grown>>20)
				}
			})
		}
	}
}

// The largest Hello that an agent sends is far from the bound.
func TestLargestHelloHasFewParts(t *testing.T) {
	step := &holdfastv1.HeldStep{StepId: "01ARZ3NDEKTSV4RRFFQ69G5FAV"}
	if most := 4 << 20 / (proto.Size(step) + 2); most >= maxParts {
		t.Fatalf("4 MiB hold %d steps, and maxParts is %d", most, maxParts)
	}
}
