package api

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"holdfast/master/spec"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// FuzzDecodeRequest: no submit has more steps when it is decoded than were counted
// before, one that is encoded as usual has as many; what cannot be decoded is
// refused as invalid (P-bounded P6).
func FuzzDecodeRequest(f *testing.F) {
	for _, m := range []*holdfastv1.SubmitBuildRequest{
		{BuildId: "01J0000000000000000000000A", Spec: &holdfastv1.BuildSpec{Name: "b", Steps: []*holdfastv1.StepSpec{{Name: "s", Run: "true"}, {}}}},
		{Spec: &holdfastv1.BuildSpec{Steps: make([]*holdfastv1.StepSpec, 0)}},
		{},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(append(b, b...)) // the spec in two parts
		f.Add(b[:len(b)/2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got := new(holdfastv1.SubmitBuildRequest)
		err := decodeRequest(func(into any) error { into.(*rawRequest).data = b; return nil }, got)
		want := new(holdfastv1.SubmitBuildRequest)
		failed := proto.Unmarshal(b, want)
		steps := len(want.GetSpec().GetSteps())
		switch {
		case err != nil:
			if !rpcerr.Is(err, rpcerr.Invalid) || failed == nil && countSteps(want, b) <= spec.MaxSteps {
				t.Fatalf("refused with %v; protobuf says %v", err, failed)
			}
			return
		case failed != nil || !proto.Equal(got, want) || steps > spec.MaxSteps:
			t.Fatalf("decoded %v, want %v, %v", got, want, failed)
		}
		if n := countSteps(want, b); n < steps {
			t.Errorf("counted %d steps, there are %d", n, steps)
		}
		again, err := proto.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if n := countSteps(want, again); n != steps {
			t.Errorf("counted %d steps, there are %d", n, steps)
		}
	})
}

// FuzzBuildID: an id that is taken is the only spelling of its number.
func FuzzBuildID(f *testing.F) {
	for _, id := range []string{"01J0000000000000000000000A", "01j0000000000000000000000a", "81J0000000000000000000000A", "01JO00000000000000000000OI", ""} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := buildID(text)
		if err != nil {
			if refused, ok := rpcerr.From(err); !ok || refused.Reason != rpcerr.Invalid || len(refused.Message) > 300 {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if string(id) != text || len(text) != 26 || text[0] > '7' {
			t.Errorf("%q is %q", text, id)
		}
		for _, r := range text {
			if r > 'Z' || r < '0' || r > '9' && r < 'A' || r == 'I' || r == 'L' || r == 'O' || r == 'U' {
				t.Errorf("%q is an id", text)
			}
		}
	})
}
