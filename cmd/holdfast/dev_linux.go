package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"holdfast/slave"
)

type devOptions struct {
	data, listen, http, notify, addrFile string
	slots                                int
	lostAfter                            time.Duration
	kill                                 bool
	log                                  *slog.Logger
	std                                  stdio
}

func newDev(std stdio) *cobra.Command {
	opts := devOptions{std: std}
	var logger func() (*slog.Logger, error)
	cmd := command("dev [--data DIR] [--listen HOST:PORT] [--http HOST:PORT] [--notify HOST:PORT] [--slots N] [flags]", "Run a master and a slave on this machine, to try things",
		`Runs a master, one slave, HTTP and the notification service in one process, reachable from this machine only.

The first INT or TERM waits for what runs; the second ends at once and leaves what runs to
its runners, for the next dev to pick up. With --kill the second kills what runs.`,
		wants(), func(ctx context.Context, _ []string) (err error) {
			if opts.log, err = logger(); err != nil {
				return err
			}
			return opts.run(ctx)
		})
	f := cmd.Flags()
	f.StringVar(&opts.data, "data", "", "`DIR` for everything (default: holdfast/dev in $XDG_STATE_HOME or ~/.local/state)")
	f.StringVar(&opts.listen, "listen", defaultAddr, "`HOST:PORT` for gRPC, on the loopback; port 0: any")
	f.StringVar(&opts.http, "http", "127.0.0.1:7480", "`HOST:PORT` for HTTP, on the loopback; port 0: any; empty: none")
	f.StringVar(&opts.notify, "notify", "127.0.0.1:7490", "`HOST:PORT` for the notification service, on the loopback; port 0: any; empty: none")
	f.StringVar(&opts.addrFile, "addr-file", "", "`FILE` that gets grpc=HOST:PORT, http= and notify= once everything is ready")
	f.IntVar(&opts.slots, "slots", runtime.NumCPU(), "attempts at the same time")
	f.DurationVar(&opts.lostAfter, "lost-after", 0, "as of holdfast master")
	f.BoolVar(&opts.kill, "kill", false, "the second signal kills what runs")
	logger = logFlag(cmd, std)
	return cmd
}

// devData is where dev keeps its data when nobody says where.
func devData() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "holdfast", "dev"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", badUsage("--data DIR is missing, and there is no home directory to take instead: %w", err)
	}
	return filepath.Join(home, ".local", "state", "holdfast", "dev"), nil
}

func (o *devOptions) run(ctx context.Context) (err error) {
	for flag, addr := range map[string]string{"listen": o.listen, "http": o.http, "notify": o.notify} {
		if addr == "" && flag != "listen" {
			continue
		}
		if local, err := loopback(addr); err != nil {
			return err
		} else if !local {
			return badUsage("--%s %s: dev is for this machine only (127.0.0.1, ::1, localhost); for others run master and slave", flag, addr)
		}
	}
	if o.lostAfter < 0 {
		return badUsage("--lost-after wants a duration above zero, got %v", o.lostAfter)
	}
	if o.data == "" {
		if o.data, err = devData(); err != nil {
			return err
		}
	}
	if o.data, err = filepath.Abs(o.data); err != nil {
		return err
	}
	if err := addrFile(o.addrFile).clear(); err != nil {
		return err
	}
	signals, stop := stopSignals()
	defer stop()
	parts, err := openMaster(ctx, masterConfig{data: o.data, listen: o.listen, http: o.http, notify: o.notify, lostAfter: o.lostAfter, log: o.log})
	if err != nil {
		return err
	}
	agent, err := o.agent(parts)
	if err != nil {
		parts.close()
		return err
	}
	return o.serve(ctx, parts, agent, signals)
}

func (o *devOptions) agent(parts *masterParts) (*slave.Agent, error) {
	so := slaveOptions{
		data: o.data, masters: []string{own(parts.grpc)}, slots: o.slots, log: o.log,
		spoolQuota: 2 << 30, minFree: 256 << 20, journalMax: 256 << 20,
	}
	cfg, err := so.config()
	if err != nil {
		return nil, err
	}
	cfg.Registerer = parts.metrics
	return slave.New(cfg)
}

// serve runs master and agent. Stop order: the agent, so that a master hears its last
// words, then the master. Whichever ends by itself takes the other along.
func (o *devOptions) serve(ctx context.Context, parts *masterParts, agent *slave.Agent, signals <-chan os.Signal) error {
	masterCtx, stopMaster := context.WithCancel(ctx)
	defer stopMaster()
	masterEnded := make(chan error, 1)
	go func() { masterEnded <- parts.master.Run(masterCtx) }()
	r := startAgent(ctx, agent, o.log, o.kill)
	defer r.cancel()
	ready := make(chan error, 1)
	go func() {
		err := awaitMaster(masterCtx, own(parts.grpc), true)
		if err == nil {
			err = addrFile(o.addrFile).write(parts)
		}
		ready <- err
	}()
	for {
		select {
		case err := <-masterEnded:
			r.cancel()
			agentErr := <-r.ended
			parts.close()
			if err == nil {
				err = agentErr
			}
			return err
		case err := <-r.ended:
			stopMaster()
			masterErr := <-masterEnded
			parts.close()
			if err == nil {
				err = masterErr
			}
			return err
		case err := <-ready:
			switch {
			case err == nil:
				o.greet(parts)
			case masterCtx.Err() == nil:
				o.log.Error("not ready", "err", err)
			}
		case s := <-signals:
			if !r.signal(ctx, s) {
				return nil
			}
		}
	}
}

// greet tells the person who started us what to do next.
func (o *devOptions) greet(parts *masterParts) {
	at := ""
	if addr := own(parts.grpc); addr != defaultAddr {
		at = " --addr " + addr
	}
	fmt.Fprintf(o.std.err, "holdfast dev is ready: gRPC %s, HTTP %s, events %s, data in %s\ntry:  holdfast run%s -- echo hello\n",
		own(parts.grpc), addrText(parts.http), addrText(parts.notify), o.data, at)
}
