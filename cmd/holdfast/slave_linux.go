package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
	"holdfast/master/link"
	"holdfast/slave"
)

type slaveOptions struct {
	data       string
	masters    []string
	name       string
	slots      int
	labels     []string
	envAllow   []string
	spoolQuota bytesValue
	minFree    bytesValue
	journalMax bytesValue
	kill       bool
	log        *slog.Logger
}

func newSlave(std stdio) *cobra.Command {
	opts := slaveOptions{spoolQuota: 2 << 30, minFree: 256 << 20, journalMax: 256 << 20}
	var logger func() (*slog.Logger, error)
	cmd := command("slave --data DIR --master HOST:PORT[,…] [--name NAME] [--slots N] [--label K=V]… [flags]", "Run a slave",
		`Runs a slave: takes builds from a master and carries them through on this machine.
Everything it knows is in DIR; two slaves never share one.

The first INT or TERM drains it: it takes nothing new, waits for what runs, and ends once
a master has everything. The second ends it now and leaves what runs to its runners: the
next agent on DIR picks it up (an upgrade is stop and start). With --kill the second kills
what runs.`,
		wants(), func(ctx context.Context, _ []string) (err error) {
			if opts.log, err = logger(); err != nil {
				return err
			}
			return opts.run(ctx)
		})
	f := cmd.Flags()
	f.StringVar(&opts.data, "data", "", "`DIR` for everything the slave keeps (required)")
	f.StringSliceVar(&opts.masters, "master", nil, "`HOST:PORT`[,…] of masters (required)")
	f.StringVar(&opts.name, "name", "", "`NAME` under which people know the slave (default: the host name)")
	f.IntVar(&opts.slots, "slots", 1, "attempts at the same time")
	f.StringArrayVar(&opts.labels, "label", nil, "`K=V` that builds may require; repeat it (os, arch, hostname are there)")
	f.StringArrayVar(&opts.envAllow, "env-allow", nil, "`NAME` of a variable that steps inherit besides the usual ones; NAME* is a prefix; repeat it")
	f.Var(&opts.spoolQuota, "spool-quota", "log bytes kept on disk until a master has them; a step waits at its part")
	f.Var(&opts.minFree, "min-free", "free disk space below which nothing new is taken")
	f.Var(&opts.journalMax, "journal-max", "size of the journal of unsent updates")
	f.BoolVar(&opts.kill, "kill", false, "the second signal kills what runs")
	logger = logFlag(cmd, std)
	return cmd
}

// config makes the agent's configuration of the options.
func (o *slaveOptions) config() (slave.Config, error) {
	if o.data == "" {
		return slave.Config{}, badUsage("--data DIR is missing")
	}
	if len(o.masters) == 0 {
		return slave.Config{}, badUsage("--master HOST:PORT is missing")
	}
	for _, addr := range o.masters {
		if err := client.CheckAddr(addr); err != nil {
			return slave.Config{}, badUsage("--master: %w", err)
		}
	}
	name := o.name
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return slave.Config{}, fmt.Errorf("find a name for the slave: %w; give it one with --name", err)
		}
		name = host
	}
	if err := link.CheckSlaveName(name); err != nil {
		return slave.Config{}, badUsage("--name: %w", err)
	}
	if o.slots < 1 {
		return slave.Config{}, badUsage("--slots wants at least 1, got %d", o.slots)
	}
	labels, err := pairs("label", o.labels)
	if err != nil {
		return slave.Config{}, err
	}
	for _, name := range o.envAllow {
		if name == "" || strings.Contains(name, "=") {
			return slave.Config{}, badUsage("--env-allow wants the name of a variable, got %q", name)
		}
	}
	exe, err := selfCommand("runner")
	if err != nil {
		return slave.Config{}, err
	}
	verify, err := selfCommand("journal-verify")
	if err != nil {
		return slave.Config{}, err
	}
	cfg := slave.Config{
		VerifyExe: verify,
		Dir:       o.data, Name: name, Masters: o.masters, Slots: o.slots, Labels: labels, Exe: exe,
		Logger: o.log, Version: version, EnvAllow: o.envAllow,
		SpoolQuota: int64(o.spoolQuota), MinFree: int64(o.minFree), JournalMax: int64(o.journalMax),
	}
	if o.minFree == 0 {
		cfg.MinFree = -1 // do not look
	}
	return cfg, nil
}

func (o *slaveOptions) run(ctx context.Context) error {
	cfg, err := o.config()
	if err != nil {
		return err
	}
	agent, err := slave.New(cfg)
	if err != nil {
		return err
	}
	signals, stop := stopSignals()
	defer stop()
	r := startAgent(ctx, agent, o.log, o.kill)
	defer r.cancel()
	for {
		select {
		case err := <-r.ended:
			if err == nil {
				o.log.Info("slave stopped")
			}
			return err
		case s := <-signals:
			if !r.signal(ctx, s) {
				return nil
			}
		}
	}
}
