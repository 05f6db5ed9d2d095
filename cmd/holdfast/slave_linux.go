package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"holdfast/master/spec"
	"holdfast/slave"
)

// killPatience is how long --kill waits for steps to end.
const killPatience = 30 * time.Second

// slaveOptions are the flags of slave.
type slaveOptions struct {
	*global
	data     string
	name     string
	masters  []string
	slots    int
	labels   []string
	quota    int64
	minFree  int64
	envAllow []string
	kill     bool
}

func newSlave(g *global) *cobra.Command {
	o := &slaveOptions{global: g}
	cmd := &cobra.Command{
		Use:   "slave --data DIR --master HOST:PORT[,HOST:PORT…]",
		Short: "Run a slave's agent",
		Long: `Run a slave's agent. The first TERM or Ctrl-C takes nothing new, waits for
the running builds and for everything to be delivered. The second one leaves
the builds to their runners and exits; they go on, and the next agent takes
them over. With --kill the second one kills them.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := g.logger()
			if err != nil {
				return err
			}
			return o.run(log)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.data, "data", "", "directory of everything the slave keeps (required)")
	f.StringSliceVar(&o.masters, "master", nil, "addresses of masters (required)")
	o.shared(cmd)
	return cmd
}

// shared are the flags that dev has, too.
func (o *slaveOptions) shared(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "", "name of the slave (default: the host's)")
	f.IntVar(&o.slots, "slots", 1, "how many builds may run at once")
	f.StringArrayVar(&o.labels, "label", nil, "K=V that builds may require; may be repeated")
	f.Int64Var(&o.quota, "spool-quota", 0, "bytes of log kept on this disk; at the quota steps wait (default 2 GiB)")
	f.Int64Var(&o.minFree, "min-free", 0, "free bytes below which no new build is taken (default 256 MiB; negative: do not look)")
	f.StringSliceVar(&o.envAllow, "env-allow", nil, "names of variables that steps get from the agent; NAME* is a prefix")
	f.BoolVar(&o.kill, "kill", false, "kill running steps at the second signal")
}

// agent makes the agent.
func (o *slaveOptions) agent(log *slog.Logger) (*slave.Agent, error) {
	if o.data == "" || len(o.masters) == 0 {
		return nil, usage(errors.New("slave needs --data DIR and --master HOST:PORT"))
	}
	labels, err := pairs("--label", o.labels)
	if err != nil {
		return nil, usage(err)
	}
	for k := range labels {
		if !spec.ValidLabelKey(k) {
			return nil, usage(fmt.Errorf("--label %q: a key has letters, digits, dots, dashes, slashes and underscores", k))
		}
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	if o.slots < 1 {
		return nil, usage(errors.New("--slots must be at least 1"))
	}
	a, err := slave.New(slave.Config{
		Dir: o.data, Name: o.name, Masters: o.masters, Slots: o.slots, Labels: labels,
		Exe: []string{exe, "runner"}, Logger: log, Version: version,
		SpoolQuota: o.quota, MinFree: o.minFree, EnvAllow: o.envAllow,
	})
	if errors.Is(err, slave.ErrInvalid) {
		return nil, usage(err)
	}
	return a, err
}

func (o *slaveOptions) run(log *slog.Logger) error {
	a, err := o.agent(log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go o.obey(ctx, cancel, a, log)
	return refusedHere(a.Run(ctx))
}

// obey carries out the two phases of stopping.
func (o *slaveOptions) obey(ctx context.Context, cancel context.CancelFunc, a *slave.Agent, log *slog.Logger) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	select {
	case <-signals:
	case <-ctx.Done():
		return
	}
	log.Info("stopping: nothing new is taken; waiting for running builds; a second signal leaves them to their runners")
	a.Drain()
	select {
	case <-signals:
	case <-ctx.Done():
		return
	}
	if o.kill {
		log.Info("killing the running steps")
		limited, done := context.WithTimeout(ctx, killPatience)
		if err := a.KillAll(limited); err != nil {
			log.Error("kill", "err", err)
		}
		done()
	}
	cancel()
}

// refusedHere marks what another process on this machine keeps us from.
func refusedHere(err error) error {
	if errors.Is(err, slave.ErrLocked) {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	return err
}
