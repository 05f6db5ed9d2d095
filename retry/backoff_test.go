package retry

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

func TestCeiling(t *testing.T) {
	const longest = time.Duration(math.MaxInt64)
	tests := []struct {
		name string
		b    Backoff
		n    int
		want time.Duration
	}{
		{"first", Backoff{time.Second, time.Minute}, 1, time.Second},
		{"doubles", Backoff{time.Second, time.Minute}, 4, 8 * time.Second},
		{"last below the cap", Backoff{time.Second, time.Minute}, 6, 32 * time.Second},
		{"cap", Backoff{time.Second, time.Minute}, 7, time.Minute},
		{"cap on a power of two", Backoff{time.Second, 8 * time.Second}, 4, 8 * time.Second},
		{"no failure yet", Backoff{time.Second, time.Minute}, 0, 0},
		{"nonsense", Backoff{time.Second, time.Minute}, math.MinInt, 0},
		{"cap below base", Backoff{time.Minute, time.Second}, 1, time.Second},
		{"zero", Backoff{}, 5, 0},
		{"zero base", Backoff{0, time.Minute}, 5, 0},
		{"zero cap", Backoff{time.Minute, 0}, 5, 0},
		{"negative", Backoff{-time.Second, time.Minute}, 5, 0},
		{"no overflow", Backoff{time.Second, longest}, 60, longest},
		{"no overflow, far out", Backoff{1, longest}, math.MaxInt, longest},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.b.Ceiling(tt.n); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestDelayWithBadRandomness(t *testing.T) {
	b := Backoff{time.Second, time.Minute}
	for r, want := range map[float64]time.Duration{
		0: 0, -1: 0, math.Inf(-1): 0, 0.5: time.Second, 1: 2 * time.Second, 7: 2 * time.Second, math.Inf(1): 2 * time.Second,
	} {
		if got := b.Delay(2, func() float64 { return r }); got != want {
			t.Errorf("%v: got %v, want %v", r, got, want)
		}
	}
	if got := b.Delay(2, math.NaN); got != 0 {
		t.Errorf("NaN: got %v", got)
	}
}

// Full jitter uses the whole range, evenly.
func TestDelayIsSpread(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	b := Backoff{100 * time.Millisecond, 2 * time.Second}
	var sum, least, most time.Duration = 0, time.Hour, 0
	const tries = 10_000
	for range tries {
		d := b.Delay(9, rnd.Float64)
		sum, least, most = sum+d, min(least, d), max(most, d)
	}
	if mean := sum / tries; mean < 950*time.Millisecond || mean > 1050*time.Millisecond {
		t.Errorf("mean %v", mean)
	}
	if least > 10*time.Millisecond || most < 1990*time.Millisecond {
		t.Errorf("from %v to %v", least, most)
	}
}

func TestReconnectNeverGivesUp(t *testing.T) {
	r := NewReconnect(func() float64 { return 0.999 })
	for i := range 2 * maxFailures {
		if d := r.Next(); d < 0 || d > DefaultReconnectCap {
			t.Fatalf("try %d: %v", i, d)
		}
	}
	if r.Failures() != maxFailures {
		t.Errorf("%d failures", r.Failures())
	}
	r.Progress()
	if d := r.Next(); d > DefaultReconnectBase || r.Failures() != 1 {
		t.Errorf("after progress: %v, %d failures", d, r.Failures())
	}
}

// FuzzBackoff: ceilings never fall, never pass the cap; delays lie within.
func FuzzBackoff(f *testing.F) {
	f.Add(int64(time.Second), int64(time.Minute), 3, 0.5)
	f.Add(int64(math.MaxInt64), int64(math.MaxInt64), math.MaxInt, 0.9999999999999999)
	f.Add(int64(1), int64(math.MaxInt64), 63, 1.0)
	f.Add(int64(-1), int64(0), -1, math.NaN())
	f.Fuzz(func(t *testing.T, base, limit int64, n int, r float64) {
		b := Backoff{time.Duration(base), time.Duration(limit)}
		c := b.Ceiling(n)
		if c < 0 || c > max(b.Cap, 0) {
			t.Errorf("ceiling %v", c)
		}
		if n < math.MaxInt && b.Ceiling(n+1) < c {
			t.Errorf("falls from %v to %v", c, b.Ceiling(n+1))
		}
		if d := b.Delay(n, func() float64 { return r }); d < 0 || d > c {
			t.Errorf("delay %v above %v", d, c)
		}
	})
}
