package api

import (
	"context"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"holdfast/master/lifecycle"
	"holdfast/master/spec"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

const (
	maxText = 4096 // bytes of a reason
	maxWord = 255  // bytes of a name, a request key, a topic
)

// Codec is the codec that a gRPC server needs for Register: the usual one, but
// it leaves our requests to us. What gRPC cannot decode it answers as a failure
// of the server, without a reason, before anybody is asked.
func Codec() encoding.CodecV2 { return codec{encoding.GetCodecV2(protocodec.Name)} }

type codec struct{ encoding.CodecV2 }

// Marshal implements encoding.CodecV2. The usual one takes buffers of 16 KiB for
// more than 4 KiB, and of 1 MiB for more than 32, and they wait as long as the
// reader pleases.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	data, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(data)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if raw, ok := v.(*rawRequest); ok {
		raw.data = data.Materialize()
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}

// rawRequest is a request that is not decoded yet.
type rawRequest struct{ data []byte }

// Register adds the service to a gRPC server, which must have Codec.
func (s *Server) Register(g grpc.ServiceRegistrar) {
	desc := holdfastv1.ControlService_ServiceDesc
	desc.Methods = slices.Clone(desc.Methods)
	for i := range desc.Methods {
		handle := desc.Methods[i].Handler
		desc.Methods[i].Handler = func(srv any, ctx context.Context, receive func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			return handle(srv, ctx, func(into any) error { return decodeRequest(receive, into) }, interceptor)
		}
	}
	desc.Streams = slices.Clone(desc.Streams)
	for i := range desc.Streams {
		handle := desc.Streams[i].Handler
		desc.Streams[i].Handler = func(srv any, stream grpc.ServerStream) error {
			return handle(srv, requestStream{stream})
		}
	}
	g.RegisterService(&desc, s)
}

// requestStream is a stream whose one request is decoded by decodeRequest.
type requestStream struct{ grpc.ServerStream }

// RecvMsg implements grpc.ServerStream.
func (s requestStream) RecvMsg(into any) error { return decodeRequest(s.ServerStream.RecvMsg, into) }

// decodeRequest receives a request and decodes it.
func decodeRequest(receive func(any) error, into any) error {
	var raw rawRequest
	if err := receive(&raw); err != nil {
		return err
	}
	message, ok := into.(proto.Message)
	if !ok {
		return rpcerr.New(rpcerr.Internal, "request of type %T", into)
	}
	if submit, ok := message.(*holdfastv1.SubmitBuildRequest); ok {
		// A step without content takes 2 bytes, and 200 in memory.
		if n := countSteps(submit, raw.data); n > spec.MaxSteps {
			return rpcerr.New(rpcerr.Invalid, "spec: steps: expected at most %d steps, found %d", spec.MaxSteps, n)
		}
	}
	if err := proto.Unmarshal(raw.data, message); err != nil {
		// It may quote what it could not read.
		return rpcerr.New(rpcerr.Invalid, "the request cannot be decoded: %s", strings.ToValidUTF8(err.Error(), "\uFFFD"))
	}
	return nil
}

// countSteps returns how many steps the encoded request has.
func countSteps(m *holdfastv1.SubmitBuildRequest, data []byte) int {
	number := func(m proto.Message, name protoreflect.Name) protowire.Number {
		return m.ProtoReflect().Descriptor().Fields().ByName(name).Number()
	}
	steps := number((*holdfastv1.BuildSpec)(nil), "steps")
	n := 0
	eachField(data, number(m, "spec"), func(spec []byte) {
		eachField(spec, steps, func([]byte) { n++ })
	})
	return n
}

// eachField calls fn for each field of that number that holds bytes. It stops
// where data is malformed, as decoding does.
func eachField(data []byte, number protowire.Number, fn func([]byte)) {
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return
		}
		data = data[n:]
		if n = protowire.ConsumeFieldValue(num, typ, data); n < 0 {
			return
		}
		if num == number && typ == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(data)
			fn(value)
		}
		data = data[n:]
	}
}

// buildID checks an id that came from outside. The text form is what the store
// compares, so a second one for the same number is refused.
func buildID(text string) (lifecycle.BuildID, error) {
	if id, err := ulid.ParseStrict(text); err != nil || id.String() != text {
		return "", rpcerr.New(rpcerr.Invalid, "%.40q is no build id: an id is a ULID, 26 digits and upper-case letters", text)
	}
	return lifecycle.BuildID(text), nil
}

// decision is what a person asks of a build.
type decision interface {
	GetBuildId() string
	GetReason() string
	GetWho() string
	GetRequestKey() string
}

// person checks what a person asks of a build, and returns the build and who it
// is that asks.
func person(req decision) (id lifecycle.BuildID, who string, err error) {
	id, err = buildID(req.GetBuildId())
	if who = req.GetWho(); who == "" {
		who = "somebody" // it ends up in sentences
	}
	return id, who, first(err,
		checkText("reason", req.GetReason(), maxText),
		checkName("who", who),
		checkText("request key", req.GetRequestKey(), maxWord))
}

// checkText checks words that came from outside. Databases take no NUL.
func checkText(what, text string, most int) error {
	if len(text) > most || !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return rpcerr.New(rpcerr.Invalid, "%s: at most %d bytes of UTF-8, without NUL", what, most)
	}
	return nil
}

// checkName checks who somebody is: it stands in tables and sentences.
func checkName(what, text string) error {
	if len(text) > maxWord || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) || !utf8.ValidString(text) {
		return rpcerr.New(rpcerr.Invalid, "%s: at most %d bytes of printable UTF-8, found %.40q", what, maxWord, text)
	}
	return nil
}

// first returns the first error.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
