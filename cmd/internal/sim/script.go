package sim

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// script is what a faked step does. It is the text of the step's command, so
// that it goes the way of a real one: spec, store, assignment, plan.
type script struct {
	lasts  time.Duration
	bursts int     // moments at which it writes
	lines  int     // in each burst
	width  int     // bytes of a line, at least
	exits  []int   // by attempt number; the last one repeats
	deaths []death // by attempt number; the last one repeats
}

// death is what the step kills half-way, besides itself.
type death byte

const (
	killsNothing death = '-'
	killsRunner  death = 'r'
	killsBoth    death = 'b' // runner and agent
)

// String is the command line.
func (s script) String() string {
	exits := make([]string, len(s.exits))
	for i, code := range s.exits {
		exits[i] = strconv.Itoa(code)
	}
	deaths := make([]byte, len(s.deaths))
	for i, d := range s.deaths {
		deaths[i] = byte(d)
	}
	text := fmt.Sprintf("sim lasts=%v bursts=%d lines=%d width=%d", s.lasts, s.bursts, s.lines, s.width)
	if len(exits) > 0 {
		text += " exits=" + strings.Join(exits, ",")
	}
	if len(deaths) > 0 {
		text += " deaths=" + string(deaths)
	}
	return text
}

func parseScript(command string) (script, error) {
	var s script
	words := strings.Fields(command)
	if len(words) == 0 || words[0] != "sim" {
		return s, fmt.Errorf("%q is no command of the simulation", command)
	}
	for _, word := range words[1:] {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch key {
		case "lasts":
			s.lasts, err = time.ParseDuration(value)
		case "bursts":
			s.bursts, err = strconv.Atoi(value)
		case "lines":
			s.lines, err = strconv.Atoi(value)
		case "width":
			s.width, err = strconv.Atoi(value)
		case "exits":
			for code := range strings.SplitSeq(value, ",") {
				var n int
				if n, err = strconv.Atoi(code); err != nil {
					break
				}
				s.exits = append(s.exits, n)
			}
		case "deaths":
			for _, d := range []byte(value) {
				s.deaths = append(s.deaths, death(d))
			}
		default:
			err = fmt.Errorf("unknown word")
		}
		if err != nil {
			return s, fmt.Errorf("%q: %w", word, err)
		}
	}
	return s, nil
}

// exit is the exit code in the n-th attempt.
func (s script) exit(n int) int { return nth(s.exits, n, 0) }

// death is what the step kills in the n-th attempt.
func (s script) death(n int) death { return nth(s.deaths, n, killsNothing) }

func nth[T any](list []T, n int, otherwise T) T {
	if len(list) == 0 {
		return otherwise
	}
	return list[min(n, len(list))-1]
}

// burst is what a step writes at one moment.
type burst struct {
	after time.Duration // since the burst before
	text  []byte
}

// play is the whole of what a step writes, and how long it goes on after the
// last burst. It follows from the step's id alone.
func (s script) play(step string) (bursts []burst, rest time.Duration) {
	rng := rngOf(step)
	at, line := time.Duration(0), 0
	for i := range s.bursts {
		slot := s.lasts / time.Duration(s.bursts)
		next := slot*time.Duration(i) + time.Duration(rng.Int64N(int64(max(slot, 1))))
		var text []byte
		for range s.lines {
			line++
			text = appendLine(text, step, line, s.width)
		}
		bursts = append(bursts, burst{after: next - at, text: text})
		at = next
	}
	return bursts, s.lasts - at
}

// appendLine is one line of output: its number, so that a reader sees at once
// what is missing or doubled, and filling that compresses badly.
func appendLine(b []byte, step string, line, width int) []byte {
	start := len(b)
	b = fmt.Appendf(b, "line %d of %s ", line, step)
	rng := rand.New(rand.NewPCG(uint64(line), uint64(width)))
	for len(b)-start < width-1 {
		b = append(b, 'a'+byte(rng.IntN(26)))
	}
	return append(b, '\n')
}

// rngOf makes a generator of a name, and of nothing else.
func rngOf(name string) *rand.Rand {
	h := fnv.New128a()
	h.Write([]byte(name))
	sum := h.Sum(nil)
	return rand.New(rand.NewPCG(be64(sum[:8]), be64(sum[8:])))
}

func be64(b []byte) uint64 {
	var v uint64
	for _, c := range b {
		v = v<<8 | uint64(c)
	}
	return v
}
