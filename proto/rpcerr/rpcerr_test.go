package rpcerr

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestEveryReasonSurvivesTheWire(t *testing.T) {
	for _, r := range Reasons() {
		sent := New(r, "told %s", "so").With("seq", "7")
		if sent.GRPCStatus().Code() == codes.Unknown {
			t.Errorf("%s has no gRPC code", r)
		}
		// What arrives is a status rebuilt from its wire form.
		got, ok := From(status.ErrorProto(sent.GRPCStatus().Proto()))
		if !ok || got.Reason != r || got.Message != "told so" || got.Meta["seq"] != "7" {
			t.Errorf("%s arrived as %+v (%v)", r, got, ok)
		}
	}
}

func TestFromTellsRefusalsFromUnknownOutcomes(t *testing.T) {
	for _, err := range []error{nil, errors.New("reset"), status.Error(codes.Unavailable, "transport is closing")} {
		if e, ok := From(err); ok {
			t.Errorf("From(%v) = %+v, want no refusal", err, e)
		}
	}
	wrapped := fmt.Errorf("connect: %w", New(Superseded, "newer session"))
	if !Is(wrapped, Fenced, Superseded) {
		t.Error("a wrapped refusal is not recognised")
	}
}
