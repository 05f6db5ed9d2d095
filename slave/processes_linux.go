package slave

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/slave/runner"
)

// processes is Runners with real processes.
type processes struct {
	home string // the data directory
	exe  []string
	log  *slog.Logger
	wake *runner.Wake
	died chan struct{} // one slot: a runner died
	both chan struct{} // one slot: wake or died

	canGroup bool // runners get control groups

	mu        sync.Mutex // guards the fields below
	watched   map[string]bool
	grouped   map[string]bool             // directories whose runners this agent has started in groups
	watch     func(dir string, pid int)   // set by run
	observers map[string]*runner.Observer // of runners that were alive; each is used by one attempt
}

var _ Runners = (*processes)(nil)

func newProcesses(cfg *Config, log *slog.Logger) (*processes, error) {
	wake, err := runner.OpenWake(wakePath(cfg.Dir))
	if err != nil {
		return nil, err
	}
	runner.SweepGroups(cfg.Dir)
	canGroup := runner.CanGroup(cfg.Dir)
	if !canGroup {
		log.Info("runners get no control groups here (not root, nothing delegated): a process that clears its environment and whose runner is killed will not be found")
	}
	return &processes{
		home:      cfg.Dir,
		exe:       cfg.Exe,
		log:       log,
		wake:      wake,
		died:      make(chan struct{}, 1),
		both:      make(chan struct{}, 1),
		watched:   make(map[string]bool),
		grouped:   make(map[string]bool),
		canGroup:  canGroup,
		observers: make(map[string]*runner.Observer),
	}, nil
}

// run passes wake-ups on and watches for deaths until ctx ends.
func (p *processes) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	p.mu.Lock()
	p.watch = func(dir string, pid int) {
		wg.Go(func() { p.awaitDeath(ctx, dir, pid) })
	}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.watch = nil
		p.mu.Unlock()
	}()
	wg.Go(func() {
		if err := p.wake.Run(ctx); err != nil {
			p.log.Error("runners cannot wake the agent any more; looking once a minute", "err", err)
		}
	})
	for {
		select {
		case <-p.wake.C:
		case <-p.died:
		case <-ctx.Done():
			return nil
		}
		select {
		case p.both <- struct{}{}:
		default:
		}
	}
}

func (p *processes) Wake() <-chan struct{} { return p.both }

func (p *processes) Prepare(dir string, plan runner.Plan) error { return runner.Prepare(dir, plan) }
func (p *processes) Alive(dir string) (bool, error)             { return runner.Alive(dir) }
func (p *processes) Stop(dir, reason string) error              { return runner.Stop(dir, reason) }
func (p *processes) Poke(dir string) error                      { return runner.Poke(dir) }

func (p *processes) Launch(ctx context.Context, dir string) error {
	err := runner.Launch(ctx, runner.LaunchConfig{Exe: p.exe, Dir: dir, Died: p.oneDied})
	if errors.Is(err, runner.ErrAlive) || errors.Is(err, runner.ErrEnded) {
		return nil // launched by an agent that died before it knew
	}
	if err == nil && p.canGroup {
		p.mu.Lock()
		p.grouped[dir] = true
		p.mu.Unlock()
	}
	return err
}

func (p *processes) Observe(dir string) (runner.Observation, error) {
	v := p.takeObserver(dir)
	o, err := v.Observe()
	if err == nil && o.Alive {
		p.watchOnce(dir)
		if o.End == nil { // else this was the last look, or nearly
			p.keepObserver(dir, v)
		}
	}
	return o, err
}

func (p *processes) takeObserver(dir string) *runner.Observer {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.observers[dir]
	delete(p.observers, dir)
	if v == nil {
		v = runner.NewObserver(dir)
	}
	return v
}

func (p *processes) keepObserver(dir string, v *runner.Observer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.observers[dir] = v
}

// oneDied wakes the agent: some runner is dead. One that its step kills before it
// could introduce itself is told by nobody else.
func (p *processes) oneDied() {
	select {
	case p.died <- struct{}{}:
	default:
	}
}

// watchOnce sees to it that the death of dir's runner, also by kill -9, wakes
// the agent. It is a hint: the lock alone tells whether a runner lives, and the
// safety scan finds what a lost hint hides.
func (p *processes) watchOnce(dir string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watched[dir] || p.watch == nil {
		return
	}
	pid := runner.PID(dir)
	if pid <= 0 {
		return // not written yet: at the next look
	}
	p.watched[dir] = true
	p.watch(dir, pid)
}

// awaitDeath waits until the process is gone, or ctx ends.
func (p *processes) awaitDeath(ctx context.Context, dir string, pid int) {
	defer func() {
		p.mu.Lock()
		delete(p.watched, dir)
		p.mu.Unlock()
		p.oneDied()
	}()
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		if !errors.Is(err, unix.ESRCH) {
			// An old kernel: leave it to the scan.
			<-ctx.Done()
		}
		return
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	conn, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Read(func(fd uintptr) bool { // readable once the process has ended
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
	})
}

// killRunnerPatience is how long a killed runner may take to be gone.
const killRunnerPatience = 10 * time.Second

// Left looks at all processes, unless this agent has started the runner in a
// group: then the kernel has counted them.
func (p *processes) Left(dir string, steps []string) (bool, error) {
	p.mu.Lock()
	grouped := p.grouped[dir]
	delete(p.grouped, dir)
	p.mu.Unlock()
	if grouped && !runner.InGroup(dir) {
		return false, nil
	}
	return runner.Left(dir, steps)
}

func (p *processes) KillMarked(ctx context.Context, attempt string, steps []string) ([]string, error) {
	return runner.KillMarked(ctx, p.home, attempt, steps)
}

// KillLeftovers kills a runner that still lives first. Its steps, which it can
// then no longer reap, die with the leftovers.
func (p *processes) KillLeftovers(ctx context.Context, dir string, steps []string) ([]string, error) {
	if !runner.HasLock(dir) {
		// Nothing says whether it lives.
		if err := killRunner(dir); err != nil {
			return nil, err
		}
		runner.Thaw(dir)
	}
	p.mu.Lock()
	delete(p.grouped, dir) // its group goes with what is killed
	p.mu.Unlock()
	for began := time.Now(); ; {
		left, err := runner.KillLeftovers(ctx, dir, steps)
		if !errors.Is(err, runner.ErrAlive) || time.Since(began) > killRunnerPatience {
			return left, err
		}
		if err := killRunner(dir); err != nil {
			return nil, err
		}
		runner.Thaw(dir)
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// killRunner kills the process whose command line says that it is the runner
// of dir.
func killRunner(dir string) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("kill runner: %w", err)
	}
	want := []byte("\x00--dir\x00" + dir + "\x00")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && bytes.HasSuffix(line, want) {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill runner %d: %w", pid, err)
			}
		}
	}
	return nil
}
