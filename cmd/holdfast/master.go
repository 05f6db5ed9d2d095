package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
	"holdfast/master"
)

type masterOptions struct {
	masterConfig
	addrFile string
}

func newMaster(std stdio) *cobra.Command {
	var opts masterOptions
	var logger func() (*slog.Logger, error)
	cmd := command("master --data DIR | --store URL [--listen HOST:PORT] [--http HOST:PORT] [--notify HOST:PORT] [flags]", "Run a master",
		`Runs a master: the queue, the history, and the service that slaves and commands talk to.
Its store is DIR/holdfast.db, or a PostgreSQL database, which several masters may share.

The first INT or TERM stops it in order, which takes a moment; the second at once.
Either is as safe as kill -9: builds run on, and their slaves report to the next master.`,
		wants(), func(ctx context.Context, _ []string) (err error) {
			if opts.log, err = logger(); err != nil {
				return err
			}
			return opts.run(ctx)
		})
	f := cmd.Flags()
	f.StringVar(&opts.data, "data", "", "`DIR` for the store")
	storeFlag(cmd, &opts.store, "`URL` of a PostgreSQL database for the store, postgres://USER@HOST:PORT/DATABASE, instead of --data ($HOLDFAST_STORE keeps a password off the command line)")
	f.StringVar(&opts.listen, "listen", defaultAddr, "`HOST:PORT` to serve slaves and commands on (gRPC)")
	f.StringVar(&opts.http, "http", "127.0.0.1:7480", "`HOST:PORT` to serve HTTP on; empty: none")
	f.StringVar(&opts.notify, "notify", "", "`HOST:PORT` to serve events on, as lines for other tools, 127.0.0.1:7490 for instance; empty: none")
	f.StringSliceVar(&opts.advertise, "advertise", nil, "`HOST:PORT`[,…] that slaves are told to dial (default: --listen)")
	f.DurationVar(&opts.lostAfter, "lost-after", master.DefaultLostAfter, "how long a slave may be away before its attempts are given up, unless a build says otherwise")
	f.DurationVar(&opts.tick, "tick", 0, "resolution of the lost watch")
	f.StringVar(&opts.addrFile, "addr-file", "", "`FILE` that gets grpc=HOST:PORT, http= and notify= once the master is ready")
	_ = f.MarkHidden("tick") // it exists
	logger = logFlag(cmd, std)
	return cmd
}

func (o *masterOptions) run(ctx context.Context) error {
	switch {
	case o.data == "" && o.store == "":
		return badUsage("--data DIR is missing, or --store URL for a PostgreSQL database")
	case o.data != "" && o.store != "":
		return badUsage("--data and --store (or HOLDFAST_STORE) are both given: the store is one or the other")
	case o.lostAfter <= 0:
		return badUsage("--lost-after wants a duration above zero, got %v; a build can say lost_after: never", o.lostAfter)
	case o.tick < 0:
		return badUsage("--tick wants a duration above zero, got %v", o.tick)
	}
	for _, addr := range o.advertise {
		if err := client.CheckAddr(addr); err != nil {
			return badUsage("--advertise: %w", err)
		}
	}
	if err := warnOpen(o.log, "--listen", o.listen); err != nil {
		return err
	}
	for flag, addr := range map[string]string{"--http": o.http, "--notify": o.notify} {
		if addr == "" {
			continue
		}
		if err := warnOpen(o.log, flag, addr); err != nil {
			return err
		}
	}
	if err := addrFile(o.addrFile).clear(); err != nil {
		return err
	}
	signals, stop := stopSignals()
	defer stop()
	parts, err := openMaster(ctx, o.masterConfig)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- parts.master.Run(ctx) }()
	ready := make(chan error, 1)
	go func() {
		err := awaitMaster(ctx, own(parts.grpc), false)
		if err == nil {
			err = addrFile(o.addrFile).write(parts)
		}
		ready <- err
	}()
	began := time.Now()
	for stopping := false; ; {
		select {
		case err := <-ended:
			parts.close()
			if err == nil {
				o.log.Info("master stopped")
			}
			return err
		case err := <-ready:
			if err != nil && ctx.Err() == nil {
				cancel()
				err = errors.Join(err, <-ended)
				parts.close()
				return err
			}
			if err == nil {
				o.log.Info("master is ready", "listen", parts.grpc.Addr().String(), "http", addrText(parts.http), "notify", addrText(parts.notify), "data", o.data,
					"version", version, "took", time.Since(began).Round(time.Millisecond))
			}
		case s := <-signals:
			if stopping {
				// What is not committed was not ACKed; the store recovers.
				o.log.Warn("stopped at once", "signal", s.String())
				return nil
			}
			stopping = true
			o.log.Info("stopping; once more: at once", "signal", s.String())
			cancel()
		}
	}
}
