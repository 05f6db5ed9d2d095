package sim

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"sync"
	"time"
)

// Every actor has a generator of its own, forked from the seed in a fixed
// order: what one of them draws does not depend on when the others run.

// fork makes an independent generator.
func fork(rng *rand.Rand) *rand.Rand {
	return rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64()))
}

// entropy makes bytes of a generator; for ULIDs. Its users lock.
type entropy struct{ rng *rand.Rand }

func (e entropy) Read(b []byte) (int, error) {
	for i := 0; i < len(b); i += 8 {
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], e.rng.Uint64())
		copy(b[i:], word[:])
	}
	return len(b), nil
}

// locked makes numbers in [0,1) for several goroutines.
func locked(rng *rand.Rand) func() float64 {
	var mu sync.Mutex
	return func() float64 {
		mu.Lock()
		defer mu.Unlock()
		return rng.Float64()
	}
}

// span is uniform in [0, d].
func span(rng *rand.Rand, d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(rng.Int64N(int64(d) + 1))
}

// between is log-uniform in [from, to]: as many short ones as long ones.
func between(rng *rand.Rand, from, to time.Duration) time.Duration {
	if to <= from {
		return from
	}
	f := math.Log(float64(from)) + rng.Float64()*(math.Log(float64(to))-math.Log(float64(from)))
	return time.Duration(math.Exp(f))
}

// gap is the time to the next of events that come at random, perDay of them.
func gap(rng *rand.Rand, perDay float64) time.Duration {
	if perDay <= 0 {
		return math.MaxInt64
	}
	d := rng.ExpFloat64() / perDay * float64(24*time.Hour)
	return time.Duration(min(d, float64(math.MaxInt64)/2)) + 1
}

// lockedEntropy is entropy for several goroutines.
type lockedEntropy struct {
	mu sync.Mutex
	entropy
}

func (e *lockedEntropy) Read(b []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.entropy.Read(b)
}
