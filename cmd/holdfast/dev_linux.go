package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

// devOptions are the flags of dev: a master and a slave in one process.
type devOptions struct {
	master masterOptions
	slave  slaveOptions
	data   string
}

func newDev(g *global) *cobra.Command {
	o := &devOptions{master: masterOptions{global: g}, slave: slaveOptions{global: g}}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a master and a slave in one process, to try things",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return o.run() },
	}
	f := cmd.Flags()
	f.StringVar(&o.data, "data", "", "directory for both (default: under the user's state directory)")
	f.StringVar(&o.master.listen, "listen", defaultAddr, "address for the command line")
	f.StringVar(&o.master.http, "http", "127.0.0.1:7480", "address for HTTP; empty: none")
	f.StringVar(&o.master.addrFile, "addr-file", "", "write grpc=HOST:PORT and http=HOST:PORT here once ready")
	f.DurationVar(&o.master.lostAfter, "lost-after", 30*60*1e9, "how long a slave may be away before its builds may run elsewhere")
	o.slave.shared(cmd)
	return cmd
}

// run stops the slave first, as its signals say, then the master.
func (o *devOptions) run() error {
	log, err := o.master.logger()
	if err != nil {
		return err
	}
	if o.data == "" {
		if o.data, err = stateDir(); err != nil {
			return err
		}
	}
	o.master.data, o.slave.data = filepath.Join(o.data, "master"), filepath.Join(o.data, "slave")

	// The master's life is this group's: the slave needs it until the end.
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	ready := make(chan string, 1)
	group.Go(func() error {
		return o.master.run(ctx, log.With("component", "master"), func(addr string) { ready <- addr })
	})
	group.Go(func() error {
		select {
		case addr := <-ready:
			o.slave.masters = []string{addr}
		case <-ctx.Done():
			return nil
		}
		a, err := o.slave.agent(log.With("component", "slave"))
		if err != nil {
			return err
		}
		running, cancel := context.WithCancel(ctx)
		defer cancel()
		go o.slave.obey(running, cancel, a, log)
		err = refusedHere(a.Run(running))
		stop()
		return err
	})
	err = group.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// stateDir is where dev keeps its data.
func stateDir() (string, error) {
	base := os.Getenv("XDG_STATE_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", usage(fmt.Errorf("no place for data: %w; give --data DIR", err))
		}
		base = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(base, "holdfast", "dev"), nil
}
