package power

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// deepEvery is how many images there are to one from which the writer goes on.
const deepEvery = 8

// outcome is what all cuts of one run came to.
type outcome struct {
	calls, cuts, images, marks int
	losses                     []string
}

// imagesPerCut bounds the images of one cut.
func (s *scenario) imagesPerCut() int {
	switch {
	case slow:
		return 20 * s.images
	case raceEnabled || testing.Short():
		return max(3, s.images/3)
	}
	return s.images
}

// cutEverywhere cuts the power at every sync of a run, and at its end, and
// checks what may be left. most: it stops after so many losses.
func cutEverywhere(t testing.TB, s scenario, r *recording, lies func(*node) bool, perCut, most int) outcome {
	t.Helper()
	images, err := os.MkdirTemp(fastDir(), "power-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(images)
	type job struct {
		dir, name string
		files     []file
		said      []string
		deep      bool
	}
	jobs := make(chan job)
	var mu sync.Mutex
	var o outcome
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for j := range jobs {
				err := writeImage(j.dir, j.files)
				if err == nil {
					err = s.check(j.dir, j.said, j.deep)
				}
				if e := os.RemoveAll(j.dir); e != nil && err == nil {
					err = e
				}
				if err != nil {
					mu.Lock()
					o.losses = append(o.losses, fmt.Sprintf("%s: %v", j.name, err))
					mu.Unlock()
				}
			}
		})
	}
	enough := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(o.losses) >= most
	}
	d := newDisk(r.dir)
	if lies != nil {
		d.lies = lies
	}
	hashSeed := maphash.MakeSeed()
	seen := make(map[uint64]int) // image → marks it was checked with
	err = d.play(r.calls, func() error {
		if enough() {
			return nil
		}
		limit := perCut
		if pendingBytes(d.pending) > 1<<20 {
			limit = max(4, limit/3) // they cost their size
		}
		random := rand.New(rand.NewPCG(uint64(d.cuts), 1))
		for _, way := range recipes(d.pending, limit, random) {
			files := d.image(way)
			sum := hashOf(hashSeed, files)
			if n, ok := seen[sum]; ok && n == len(d.marks) {
				continue
			}
			seen[sum] = len(d.marks)
			o.images++
			jobs <- job{
				dir: filepath.Join(images, fmt.Sprint(o.images)), files: files, said: d.marks[:len(d.marks):len(d.marks)],
				name: fmt.Sprintf("cut %d, %d changes pending, on the disk are %s; last said %q", d.cuts, len(d.pending), way.name, lastOf(d.marks)),
				deep: o.images%deepEvery == 0,
			}
		}
		return nil
	})
	close(jobs)
	workers.Wait()
	if err != nil {
		t.Fatal(err)
	}
	o.calls, o.cuts, o.marks = len(r.calls), d.cuts, len(d.marks)
	return o
}

func lastOf(marks []string) string {
	if len(marks) == 0 {
		return ""
	}
	return marks[len(marks)-1]
}

func pendingBytes(changes []change) (sum int) {
	for _, p := range changes {
		sum += len(p.data)
	}
	return sum
}

// fastDir is where images go: they need to outlive nothing.
func fastDir() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return os.TempDir()
}

func writeImage(dir string, files []file) error {
	for _, f := range files {
		path := dir + f.path
		var err error
		switch {
		case strings.HasSuffix(path, "-shm"): // SQLite's index of its log: written through a map, made anew
		case f.dir:
			err = os.Mkdir(path, 0o755)
		case f.fifo:
			err = unix.Mkfifo(path, 0o600)
		default:
			err = os.WriteFile(path, f.data, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func hashOf(seed maphash.Seed, files []file) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, f := range files {
		fmt.Fprintf(&h, "%s %d\n", f.path, len(f.data))
		h.Write(f.data)
	}
	return h.Sum64()
}

// cutPower records a scenario and cuts it everywhere.
func cutPower(t *testing.T, name string) {
	t.Helper()
	t.Parallel()
	r := recorded(t, name)
	began := time.Now()
	s := scenarios[name]
	o := cutEverywhere(t, s, r, nil, s.imagesPerCut(), 5)
	for _, loss := range o.losses {
		t.Error(loss)
	}
	if o.marks < 5 || o.cuts < 5 {
		t.Errorf("%d promises and %d cuts: this test looks at nothing", o.marks, o.cuts)
	}
	t.Logf("figure: power cut under the %s = %d places, %d images, %d marks", name, o.cuts, o.images, o.marks)
	t.Logf("%d calls; %v to record, %v to check", o.calls, r.took.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
}
