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
	"strings"
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

// farm is masters and slaves, all of them children.
type farm struct {
	dir     string    // of everything
	store   *database // nil: the master's own
	masters []*host
	slaves  []*machine

	mu     sync.Mutex
	killed map[string]bool // guarded by mu; attempts whose runner was killed
	broken judge.Findings  // guarded by mu; what must not happen and did
	news   func(text string)
}

// host is a master with what is around it.
type host struct {
	addr   string
	master *daemon
	store  *proxy     // its way to the database; nil: there is none
	cable  sync.Mutex // held by the fault that has its hands on that
}

// machine is a slave with what is around it.
type machine struct {
	name  string
	dir   string
	agent *daemon
	links []*proxy   // one to each master
	cable sync.Mutex // held by the fault that has its hands on them
	small bool       // its spool is
	disk  bool       // it has a file system of its own
}

// newFarm makes the directories and the network; nothing runs yet.
func newFarm(cfg Config, dir string, news func(string)) (f *farm, err error) {
	f = &farm{dir: dir, killed: make(map[string]bool), news: news}
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
	if cfg.Store != "" {
		if f.store, err = newDatabase(cfg.Store); err != nil {
			return f, err
		}
	}
	for i := range cfg.Masters {
		h, err := f.newHost(cfg, i)
		if err != nil {
			return f, err
		}
		f.masters = append(f.masters, h)
	}
	for i := range cfg.Slaves {
		m := &machine{name: fmt.Sprintf("s%02d", i+1)}
		m.dir = filepath.Join(dir, "slaves", m.name)
		f.slaves = append(f.slaves, m)
		var addrs []string
		for _, h := range f.masters {
			link, err := newProxy("tcp", h.addr)
			if err != nil {
				return f, err
			}
			m.links, addrs = append(m.links, link), append(addrs, link.addr)
		}
		args := []string{"slave", "--data", m.dir, "--name", m.name, "--master", strings.Join(addrs, ","), "--slots", fmt.Sprint(slots)}
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

// newHost makes the i-th master. Slaves learn the masters' addresses and dial those
// too. No way but their proxies may lead there, so nobody listens at what they are
// told.
func (f *farm) newHost(cfg Config, i int) (h *host, err error) {
	h = &host{addr: loopback()}
	name := "master"
	if i > 0 {
		name = fmt.Sprintf("master%d", i+1)
	}
	h.master = &daemon{name: name, exe: cfg.Exe, log: filepath.Join(f.dir, "logs", name+".log"), died: f.died,
		args: []string{"master", "--listen", h.addr, "--http", "", "--advertise", loopback()}}
	if f.store == nil {
		h.master.args = append(h.master.args, "--data", filepath.Join(f.dir, "master"))
		return h, nil
	}
	if h.store, err = newProxy(f.store.network, f.store.addr); err != nil {
		return h, err
	}
	url, err := f.store.through(h.store.addr)
	h.master.env = []string{"HOLDFAST_STORE=" + url} // not for everybody's eyes
	return h, err
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
	for _, h := range f.masters {
		if err := h.master.start(); err != nil {
			return nil, err
		}
	}
	// People ask the first one; while it is away they wait.
	first := f.masters[0]
	c, err := client.Dial(ctx, client.Config{Addr: first.addr, Patience: 30 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("%w; its log ends: %s", err, first.master.tail(3))
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
	for _, h := range f.masters {
		wg.Go(func() {
			if !h.master.end(syscall.SIGTERM, 20*time.Second) {
				f.fail(judge.Other, "%s does not end when it is told to", h.master.name)
				h.master.end(syscall.SIGKILL, 10*time.Second)
			}
		})
	}
	wg.Wait()
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
	for _, h := range f.masters {
		h.master.destroy()
	}
	killAll(f.dir)
	for _, m := range f.slaves {
		for _, link := range m.links {
			link.close()
		}
	}
	for _, h := range f.masters {
		if h.store != nil {
			h.store.close()
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
