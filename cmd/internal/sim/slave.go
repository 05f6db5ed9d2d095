package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"holdfast/slave"
)

// slaveBox is a build machine: a name, a disk, a cable, runners. The agent on
// it is started and stopped many times; the runners live on.
type slaveBox struct {
	name    string
	dir     string
	masters []string
	cable   *cable
	runners *runners
	profile *Profile
	clock   *wallClock
	full    *atomic.Bool // its disk
	log     *slog.Logger

	mu     sync.Mutex
	rng    *rand.Rand // guarded by mu
	life   *agentLife // nil: down
	old    bool       // the version that is started next
	boots  int
	starts int
	fatal  error // an agent ended that nobody had asked to
}

// agentLife is one run of an agent process.
type agentLife struct {
	cancel context.CancelFunc
	asked  bool          // to end; guarded by slaveBox.mu
	done   chan struct{} // closed when Run has returned
}

// start runs an agent on the machine.
func (b *slaveBox) start() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.life != nil {
		return errors.New("the agent runs already")
	}
	b.runners.distrust()
	t := b.profile.Times
	agent, err := slave.New(slave.Config{
		Dir: b.dir, Name: b.name, Masters: b.masters, Slots: b.profile.Slots,
		Dial: b.cable.dial, Runners: b.runners, Logger: b.log, Version: "sim", Features: featuresOf(b.old),
		SpoolQuota: b.profile.SpoolQuota, JournalMax: b.profile.JournalMax, MinFree: 1, FreeBytes: b.free, JournalReserve: 64 << 10, NoSync: true,
		Rand: locked(fork(b.rng)), Entropy: &lockedEntropy{entropy: entropy{fork(b.rng)}},
		Environ: func() []string { return nil }, Wall: b.clock.now,
		KeepaliveTime: t.KeepaliveTime, KeepaliveTimeout: t.KeepaliveTimeout,
		ReconnectBase: t.ReconnectBase, ReconnectCap: t.ReconnectCap,
		StallAfter: t.StallAfter, DialTimeout: t.DialTimeout, WelcomeTimeout: t.WelcomeTimeout,
		ScanEvery: t.ScanEvery,
		BootID:    fmt.Sprintf("%s-boot-%d", b.name, b.boots), Fingerprint: b.name + "-machine", Hostname: b.name,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	life := &agentLife{cancel: cancel, done: make(chan struct{})}
	b.life = life
	b.starts++
	go func() {
		defer close(life.done)
		err := agent.Run(ctx)
		b.mu.Lock()
		defer b.mu.Unlock()
		if !life.asked {
			b.fatal = errors.Join(b.fatal, fmt.Errorf("agent of %s ended by itself: %w", b.name, err))
		}
	}()
	return nil
}

// free is the room on the disk.
func (b *slaveBox) free(string) (int64, error) {
	if b.full.Load() {
		return 0, nil
	}
	return math.MaxInt64, nil
}

// leave takes the running agent out of the box; nil: it is down.
func (b *slaveBox) leave() *agentLife {
	b.mu.Lock()
	defer b.mu.Unlock()
	life := b.life
	b.life = nil
	if life != nil {
		life.asked = true
	}
	return life
}

// stop ends the agent as the second signal does: it leaves its attempts to
// their runners.
func (b *slaveBox) stop() {
	if life := b.leave(); life != nil {
		life.cancel()
		<-life.done
	}
}

// kill ends the agent as kill -9 does. The caller has made sure that nothing
// in the bubble is running (synctest.Wait), so journal and identity are copied as
// they are at this instant; what the dying agent still writes to them is taken
// back. Weaker than a real kill: it never falls into the middle of a write, and
// what the agent does in attempts/ while it dies is not taken back.
//
// The returned func waits until all of that is done.
func (b *slaveBox) kill() (wait func() error) {
	life := b.leave()
	if life == nil {
		return func() error { return nil }
	}
	image, err := readImage(b.dir, false)
	life.cancel()
	b.cable.drop()
	return func() error {
		<-life.done
		if err != nil {
			return err
		}
		return image.restore(b.dir, false)
	}
}

// reboot is a kill of agent and runners; afterwards the boot id is another. The
// agent goes first: it could launch another runner while the others are dying.
func (b *slaveBox) reboot() (wait func() error) {
	wait = b.kill()
	b.runners.killAll()
	b.mu.Lock()
	b.boots++
	b.mu.Unlock()
	return wait
}

// putBack is a reboot into an older copy of the whole data directory.
func (b *slaveBox) putBack(img image) (wait func() error) {
	life := b.leave()
	if life != nil {
		life.cancel()
	}
	b.cable.drop()
	b.runners.killAll() // after the agent, see reboot
	b.mu.Lock()
	b.boots++
	b.mu.Unlock()
	return func() error {
		if life != nil {
			<-life.done
		}
		return img.restore(b.dir, true)
	}
}

// upgrade makes the next start one of the other version.
func (b *slaveBox) upgrade() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.old = !b.old
}

// isOld reports whether the older version runs, or is started next.
func (b *slaveBox) isOld() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.old
}

// isUp reports whether an agent runs.
func (b *slaveBox) isUp() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.life != nil
}
