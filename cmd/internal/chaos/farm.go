//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/cmd/internal/client"
	"holdfast/cmd/internal/judge"
)

// What slaves with limits have.
const (
	slots     = 2
	smallPart = 1 << 20 // of a spool, for one attempt
	diskBytes = 96 << 20
)

// farm is a master and its slaves, all of them children.
type farm struct {
	dir    string // of everything
	addr   string // of the master
	master *daemon
	slaves []*machine

	mu     sync.Mutex
	killed map[string]bool // guarded by mu; attempts whose runner was killed
	broken judge.Findings  // guarded by mu; what must not happen and did
	news   func(text string)
}

// machine is a slave with what is around it.
type machine struct {
	name  string
	dir   string
	agent *daemon
	link  *proxy
	cable sync.Mutex // held by the fault that has its hands on the link
	small bool       // its spool is
	disk  bool       // it has a file system of its own
}

// newFarm makes the directories and the network; nothing runs yet.
func newFarm(cfg Config, dir string, news func(string)) (f *farm, err error) {
	f = &farm{dir: dir, addr: loopback(), killed: make(map[string]bool), news: news}
	defer func() {
		if err != nil {
			f.destroy()
		}
	}()
	for _, d := range []string{"master", "slaves", "truth", "logs"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return f, err
		}
	}
	// Slaves learn the masters' addresses and dial those too. No way but their
	// proxies may lead there, so nobody listens at what they are told.
	f.master = &daemon{name: "master", exe: cfg.Exe, log: filepath.Join(dir, "logs", "master.log"), died: f.died,
		args: []string{"master", "--data", filepath.Join(dir, "master"), "--listen", f.addr, "--http", "", "--advertise", loopback()}}
	for i := range cfg.Slaves {
		m := &machine{name: fmt.Sprintf("s%02d", i+1)}
		m.dir = filepath.Join(dir, "slaves", m.name)
		if m.link, err = newProxy(f.addr); err != nil {
			return f, err
		}
		f.slaves = append(f.slaves, m)
		args := []string{"slave", "--data", m.dir, "--name", m.name, "--master", m.link.addr, "--slots", fmt.Sprint(slots)}
		switch {
		case i == 0 && slices.Contains(cfg.Faults, Disk) && mountDisk(m.dir) == nil:
			m.disk = true
			args = append(args, "--min-free", "8MiB", "--label", "chaos=disk")
		case (i%4 == 1 || i == 0 && cfg.Slaves < 2) && slices.Contains(cfg.Faults, Quota):
			m.small = true
			args = append(args, "--min-free", "1MiB", "--spool-quota", fmt.Sprint(smallPart*(slots+1)), "--label", "chaos=quota")
		default:
			args = append(args, "--min-free", "1MiB")
		}
		m.agent = &daemon{name: "agent of " + m.name, exe: cfg.Exe, log: filepath.Join(dir, "logs", m.name+".log"), died: f.died, args: args}
	}
	return f, nil
}

// mountDisk makes a small file system. It needs root, and a kernel that lets it;
// without, the report names what was not exercised.
func mountDisk(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", diskBytes))
}

// start starts everything and waits for the master.
func (f *farm) start(ctx context.Context) (*client.Client, error) {
	if err := f.master.start(); err != nil {
		return nil, err
	}
	c, err := client.Dial(ctx, client.Config{Addr: f.addr, Patience: 30 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("%w; its log ends: %s", err, f.master.tail(3))
	}
	for _, m := range f.slaves {
		if err := m.agent.start(); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// died: a process of ours ended and nobody made it.
func (f *farm) died(d *daemon, how string) {
	text := fmt.Sprintf("%s ended by itself (%s): %s", d.name, how, d.tail(2))
	f.fail(judge.Other, "%s", text)
	f.news(text)
	// The others go on, and so must it, or they would wait for ever.
	time.AfterFunc(time.Second, func() {
		d.fault.Lock()
		defer d.fault.Unlock()
		d.mu.Lock()
		stopped := d.cmd != nil || d.expected
		d.mu.Unlock()
		if !stopped {
			_ = d.start()
		}
	})
}

func (f *farm) fail(class judge.Class, format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = append(f.broken, judge.Finding{Class: class, Text: fmt.Sprintf(format, args...)})
}

// holding are the slaves that still hold an attempt.
func (f *farm) holding() (names []string) {
	for _, m := range f.slaves {
		if entries, err := os.ReadDir(filepath.Join(m.dir, "attempts")); err == nil && len(entries) > 0 {
			names = append(names, m.name)
		}
	}
	return names
}

// stop ends everything in order: agents, so that the master hears their last
// words, then the master. Then nothing may be left.
func (f *farm) stop() {
	var wg sync.WaitGroup
	for _, m := range f.slaves {
		wg.Go(func() {
			if !m.agent.end(syscall.SIGTERM, 20*time.Second) {
				f.fail(judge.Other, "agent of %s does not end though it has nothing left to do", m.name)
				m.agent.end(syscall.SIGKILL, 10*time.Second)
			}
		})
	}
	wg.Wait()
	if !f.master.end(syscall.SIGTERM, 20*time.Second) {
		f.fail(judge.Other, "the master does not end when it is told to")
		f.master.end(syscall.SIGKILL, 10*time.Second)
	}
	for _, pid := range marked(f.dir) {
		f.fail(judge.Other, "process %s is left", nameOf(pid))
	}
}

// destroy leaves no process and no mount, whatever the state of things.
func (f *farm) destroy() {
	for _, m := range f.slaves {
		if m.agent != nil {
			m.agent.destroy()
		}
	}
	if f.master != nil {
		f.master.destroy()
	}
	killAll(f.dir)
	for _, m := range f.slaves {
		if m.link != nil {
			m.link.close()
		}
	}
}

// unmount takes the file systems away, with all that is in them.
func (f *farm) unmount() {
	for _, m := range f.slaves {
		if m.disk {
			_ = unix.Unmount(m.dir, unix.MNT_DETACH)
		}
	}
}

// rescue copies what is on file systems that are about to go, as evidence.
func (f *farm) rescue() error {
	for _, m := range f.slaves {
		if !m.disk {
			continue
		}
		to := filepath.Join(f.dir, "rescued-"+m.name)
		err := filepath.WalkDir(m.dir, func(path string, d fs.DirEntry, err error) error {
			rel, _ := filepath.Rel(m.dir, path)
			switch {
			case err != nil:
				return err
			case d.IsDir():
				return os.MkdirAll(filepath.Join(to, rel), 0o755)
			case d.Type().IsRegular() && d.Name() != "filler":
				return copyFile(filepath.Join(to, rel), path)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("keep the evidence of %s: %w", m.name, err)
		}
	}
	return nil
}
