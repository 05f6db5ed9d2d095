package main

import (
	"bytes"
	"strings"
	"sync"
	"testing"
)

// result is what a command left.
type result struct {
	out, err string
	code     int
}

// run runs one command line in this process.
func run(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	var out, errOut safeBuffer
	code := execute(t.Context(), args, stdio{in: strings.NewReader(stdin), out: &out, err: &errOut})
	return result{out.String(), errOut.String(), code}
}

// safeBuffer is a buffer for writers in several goroutines.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
