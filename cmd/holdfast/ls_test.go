//go:build linux

package main

import (
	"strings"
	"testing"

	"holdfast/cmd/internal/client"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// A master ends a page early when it gets long. That is not the end.
func TestListGoesOnAfterAShortPage(t *testing.T) {
	t.Parallel()
	f, stop, err := startFarm()
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	c, err := client.Dial(t.Context(), client.Config{Addr: f.addr})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const builds = 550 // of 4 KiB; a page has 2 MiB
	for range builds {
		_, err := c.Submit(t.Context(), &holdfastv1.SubmitBuildRequest{Spec: &holdfastv1.BuildSpec{
			Name: "n", Reason: strings.Repeat("r", 4096), Requires: map[string]string{"no": "slave"},
			Steps: []*holdfastv1.StepSpec{{Name: "a", Run: "true"}},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	for limit, want := range map[string]int{"0": builds, "540": 540} {
		if n := strings.Count(f.ok(t, "ls", "--json", "--limit", limit), "\n"); n != want {
			t.Errorf("ls --limit %s lists %d builds of %d", limit, n, builds)
		}
	}
}
