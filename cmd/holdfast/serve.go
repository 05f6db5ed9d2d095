package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"holdfast/cmd/internal/client"
	"holdfast/master"
	"holdfast/master/store"
	"holdfast/master/store/postgres"
	"holdfast/master/store/sqlite"
)

// stopSignals delivers the signals that stop a process in phases.
func stopSignals() (<-chan os.Signal, func()) {
	c := make(chan os.Signal, 3)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	return c, func() { signal.Stop(c) }
}

// masterConfig is what a master process is made of.
type masterConfig struct {
	data, listen, http, notify string // addresses; empty: none
	store                      string // URL of a PostgreSQL database; empty: SQLite in data
	advertise                  []string
	lostAfter, tick            time.Duration
	log                        *slog.Logger
}

// masterParts are an open store, bound ports, and the master that uses them.
type masterParts struct {
	store              store.Store
	commands           *sqlite.CommandFile // nil: they are in the store
	grpc, http, notify net.Listener
	master             *master.Master
	metrics            *prometheus.Registry
}

// openMaster binds the ports, then opens the store: a busy port must not leave
// a new data directory behind.
func openMaster(ctx context.Context, cfg masterConfig) (p *masterParts, err error) {
	p = &masterParts{metrics: prometheus.NewRegistry()}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	p.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if p.grpc, err = listen("--listen", cfg.listen); err != nil {
		return p, err
	}
	if cfg.http != "" {
		if p.http, err = listen("--http", cfg.http); err != nil {
			return p, err
		}
	}
	if cfg.notify != "" {
		if p.notify, err = listen("--notify", cfg.notify); err != nil {
			return p, err
		}
	}
	mc := master.Config{
		ID: client.NewID(), Version: version,
		Listener: p.grpc, HTTP: p.http, Notify: p.notify, Masters: advertised(cfg.advertise, p.grpc.Addr()),
		LostAfter: cfg.lostAfter, Tick: cfg.tick, Logger: cfg.log, Metrics: p.metrics,
	}
	mc.Host, _ = os.Hostname() // for people
	if p.http != nil {
		mc.HTTPAddr = advertised(nil, p.http.Addr())[0]
	}
	if err := p.openStore(ctx, cfg, &mc); err != nil {
		return p, err
	}
	p.master, err = master.New(mc)
	return p, err
}

// sharedPoll is how often who waits for hints looks without one, where other masters
// send them: a lost one delays nobody longer.
const sharedPoll = 10 * time.Second

// openStore opens the store, and says in mc who shares it.
func (p *masterParts) openStore(ctx context.Context, cfg masterConfig, mc *master.Config) error {
	if cfg.store == "" {
		path := filepath.Join(cfg.data, "holdfast.db")
		s, err := sqlite.Open(ctx, sqlite.Config{Path: path, Logger: cfg.log})
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		p.store, mc.Store, mc.SoleOwner = s, s, true
		p.commands = sqlite.OpenCommands(ctx, cfg.data, cfg.log)
		mc.Commands = p.commands
		return nil
	}
	s, err := postgres.Open(ctx, postgres.Config{URL: cfg.store, Logger: cfg.log})
	if err != nil {
		return fmt.Errorf("--store: %w", err)
	}
	p.store, mc.Store, mc.Relay, mc.SafetyPoll = s, s, s.Relay(mc.ID), sharedPoll
	mc.Commands = s.Commands()
	return nil
}

// close releases what openMaster took. The master must not run.
func (p *masterParts) close() {
	for _, l := range []net.Listener{p.grpc, p.http, p.notify} {
		if l != nil {
			_ = l.Close() // a master that has run closed it already
		}
	}
	if p.commands != nil {
		_ = p.commands.Close()
	}
	if p.store != nil {
		_ = p.store.Close()
	}
}

func listen(flag, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s %s: another process, perhaps another holdfast, is using this address: %w", flag, addr, syscall.EADDRINUSE)
	case err != nil:
		return nil, fmt.Errorf("%s %s: %w: %v", flag, addr, errRefused, err)
	}
	return l, nil
}

// advertised are the addresses that slaves are told. An address that means
// "all of this machine's" means another machine to them.
func advertised(given []string, addr net.Addr) []string {
	if len(given) > 0 {
		return given
	}
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return []string{addr.String()}
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		if name, err := os.Hostname(); err == nil {
			host = name
		}
	}
	return []string{net.JoinHostPort(host, port)}
}

// own is the address under which a process reaches its own listener.
func own(l net.Listener) string {
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return l.Addr().String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip.To4() == nil {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, port)
}

// awaitMaster returns when the master answers and, if one is named, has its slave.
func awaitMaster(ctx context.Context, addr string, slaveToo bool) error {
	m, err := client.Dial(ctx, client.Config{Addr: addr, Patience: time.Minute})
	if err != nil {
		return err
	}
	defer m.Close()
	for slaveToo {
		list, err := m.Slaves(ctx)
		if err != nil {
			return err
		}
		for _, s := range list.GetSlaves() {
			if s.GetState() == "connected" {
				return nil
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// addrFile tells other programs where the listeners are, in one piece.
type addrFile string

// clear removes what an earlier run left, so that nobody takes it for ours.
func (f addrFile) clear() error {
	if f == "" {
		return nil
	}
	if err := os.Remove(string(f)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("--addr-file: %w: %v", errRefused, err)
	}
	return nil
}

func (f addrFile) write(p *masterParts) error {
	if f == "" {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "grpc=%s\n", own(p.grpc))
	if p.http != nil {
		fmt.Fprintf(&b, "http=%s\n", own(p.http))
	}
	if p.notify != nil {
		fmt.Fprintf(&b, "notify=%s\n", own(p.notify))
	}
	temp, err := os.CreateTemp(filepath.Dir(string(f)), filepath.Base(string(f))+".*")
	if err != nil {
		return fmt.Errorf("--addr-file: %w", err)
	}
	_, err = temp.WriteString(b.String())
	err = errors.Join(err, temp.Chmod(0o644), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), string(f))
	}
	if err != nil {
		_ = os.Remove(temp.Name())
		return fmt.Errorf("--addr-file: %w", err)
	}
	return nil
}

// warnOpen says loudly what an address that others can reach means today.
func warnOpen(log *slog.Logger, flag, addr string) error {
	local, err := loopback(addr)
	if err != nil || local {
		return err
	}
	log.Warn("NO TLS AND NO TOKENS YET: everybody who can reach this address can submit builds, that is, run commands on all slaves; "+
		"keep it inside a network where you trust every machine", "flag", flag, "address", addr)
	return nil
}

// addrText is the address of a listener, if there is one.
func addrText(l net.Listener) string {
	if l == nil {
		return "none"
	}
	return l.Addr().String()
}
