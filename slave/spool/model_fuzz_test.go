package spool

import (
	"math/rand/v2"
	"testing"
)

// choices is a source of numbers that a fuzzer chooses; after its end they are of
// a generator.
type choices struct {
	b    []byte
	rest *rand.PCG
}

// Uint64 implements rand.Source: what is picked from follows from the high bits.
func (c *choices) Uint64() uint64 {
	if len(c.b) < 2 {
		return c.rest.Uint64()
	}
	n := uint64(c.b[0])<<56 | uint64(c.b[1])<<48
	c.b = c.b[2:]
	return n
}

// FuzzModel is TestModel with the choices of a fuzzer.
func FuzzModel(f *testing.F) {
	for seed := range uint64(4) {
		g := rand.NewPCG(seed, 3)
		b := make([]byte, 200)
		for i := range b {
			b[i] = byte(g.Uint64())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4<<10 {
			return
		}
		model(t, rand.New(&choices{b: b, rest: rand.NewPCG(uint64(len(b)), 1)}))
	})
}
