package link

import (
	"testing"

	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"holdfast/proto/chain"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// FuzzParts: no message has more parts when it is decoded than were counted on
// the wire before; one that is encoded as usual has as many. What the codec lets
// through is what protobuf makes of it (P-limits P25).
func FuzzParts(f *testing.F) {
	f.Add([]byte{})
	for _, m := range sampleRequests() {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(append(b, b...)) // a field again
		f.Add(b[:len(b)-1])
	}
	codec := Codec(encoding.GetCodecV2(grpcproto.Name))
	f.Fuzz(func(t *testing.T, b []byte) {
		req := new(holdfastv1.ConnectRequest)
		of := req.ProtoReflect().Descriptor()
		failed := proto.Unmarshal(b, req)

		got := new(holdfastv1.ConnectRequest)
		half := len(b) / 2
		if err := codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b[:half]), mem.SliceBuffer(b[half:])}, got); err != nil {
			t.Fatalf("the codec says %v", err)
		}
		switch refused := checkDecoded(got); {
		case failed != nil:
			if refused == nil {
				t.Fatalf("protobuf says %v, the codec has %v", failed, got)
			}
			tooManyParts(b, of, 0)
			return
		case refused == nil && !proto.Equal(got, req):
			t.Fatalf("the codec has %v of %v", got, req)
		}

		parts, lists := partsOf(req.ProtoReflect())
		if parts > 0 && !tooManyParts(b, of, parts-1) && len(b)/2 > parts-1 {
			t.Errorf("%d bytes have %d parts, and fewer were counted", len(b), parts)
		}
		again, err := proto.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		if all := parts + lists; tooManyParts(again, of, all) {
			t.Errorf("%d bytes have %d parts, and more were counted", len(again), all)
		}
	})
}

// partsOf counts what is large in memory: messages, and elements that are texts
// or messages. Lists of numbers, each of which is one field on the wire, are
// counted apart.
func partsOf(m protoreflect.Message) (parts, lists int) {
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		add := func(inner protoreflect.Message) {
			p, l := partsOf(inner)
			parts, lists = parts+1+p, lists+l
		}
		switch {
		case field.IsMap():
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				if parts++; field.MapValue().Message() != nil {
					add(v.Message())
				}
				return true
			})
		case field.IsList() && field.Message() != nil:
			for i := range v.List().Len() {
				add(v.List().Get(i).Message())
			}
		case field.IsList() && (field.Kind() == protoreflect.StringKind || field.Kind() == protoreflect.BytesKind):
			parts += v.List().Len()
		case field.IsList():
			lists++
		case field.Message() != nil:
			add(v.Message())
		}
		return true
	})
	return parts, lists
}

// sampleRequests are small messages of every kind.
func sampleRequests() []*holdfastv1.ConnectRequest {
	snapshot, err := proto.Marshal(&holdfastv1.Update{Seq: 1, Kind: &holdfastv1.Update_Snapshot{Snapshot: &holdfastv1.Snapshot{State: 2, Steps: []*holdfastv1.StepEnded{{StepId: testID, State: 3, ExitCode: proto.Int32(1)}}}}})
	if err != nil {
		panic(err)
	}
	note, err := proto.Marshal(&holdfastv1.Update{Seq: 2, AtUs: -1, Kind: &holdfastv1.Update_Note{Note: &holdfastv1.Note{Text: "x\x00"}}})
	if err != nil {
		panic(err)
	}
	return []*holdfastv1.ConnectRequest{
		{Message: &holdfastv1.ConnectRequest_Status{Status: &holdfastv1.StatusBatch{
			AttemptId: testID, FirstSeq: 1, Updates: [][]byte{snapshot, note}, CrcAfter: chain.ExtendAll(0, [][]byte{snapshot, note})}}},
		{Message: &holdfastv1.ConnectRequest_Log{Log: &holdfastv1.LogChunk{
			AttemptId: testID, StepId: testID, RawLength: 3, Codec: 1, Data: []byte("abc"), Crc: chain.Sum([]byte("abc")), Marks: []*holdfastv1.TimeMark{{At: 1, Stream: 2}}}}},
		{Message: &holdfastv1.ConnectRequest_Log{Log: &holdfastv1.LogChunk{
			AttemptId: testID, StepId: testID, RawLength: 3, Codec: 2, Data: skippable(3)}}},
		{Message: &holdfastv1.ConnectRequest_Gap{Gap: &holdfastv1.Gap{AttemptId: testID, FromSeq: 1, ToSeq: 9}}},
		{Message: &holdfastv1.ConnectRequest_LogGap{LogGap: &holdfastv1.LogGap{AttemptId: testID, StepId: testID, ToOffset: 9}}},
		{Message: &holdfastv1.ConnectRequest_Absent{Absent: &holdfastv1.Absent{AttemptId: testID, Tombstone: true, State: 3}}},
		{Message: &holdfastv1.ConnectRequest_SlaveStatus{SlaveStatus: &holdfastv1.SlaveStatus{Accepting: true, OldestUs: 1}}},
		{Message: &holdfastv1.ConnectRequest_Hello{Hello: &holdfastv1.Hello{
			SlaveName: "b1", InstanceId: testID, JournalId: testID, Incarnation: 1, BootId: "x", Labels: map[string]string{"os": "linux"}, Features: []string{"a"},
			Attempts: []*holdfastv1.HeldAttempt{{AttemptId: testID, Steps: []*holdfastv1.HeldStep{{StepId: testID}}}}}}},
		{Message: &holdfastv1.ConnectRequest_Recover{Recover: &holdfastv1.Recover{AttemptId: testID, Assignment: &holdfastv1.Assignment{
			BuildId: testID, AttemptNumber: 1, StepIds: []string{testID}, Spec: &holdfastv1.BuildSpec{
				Name: "b", Steps: []*holdfastv1.StepSpec{{Name: "s", Run: "true", Env: map[string]string{"A": "b"}, RetryExitCodes: []int32{75, 76}}}}}}}},
	}
}
