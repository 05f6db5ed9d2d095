package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
)

// defaultAddr is where a master listens unless told otherwise.
const defaultAddr = "127.0.0.1:7400"

// global are the flags every command has.
type global struct {
	addr     string
	json     bool
	logLevel string
}

// newRoot builds the command tree.
func newRoot() *cobra.Command {
	g := &global{}
	root := &cobra.Command{
		Use:           "holdfast",
		Short:         "Reliable builds on machines behind flaky networks",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	addr := os.Getenv("HOLDFAST_ADDR")
	if addr == "" {
		addr = defaultAddr
	}
	flags := root.PersistentFlags()
	flags.StringVar(&g.addr, "addr", addr, "the master's gRPC address (HOLDFAST_ADDR)")
	flags.BoolVar(&g.json, "json", false, "print JSON")
	flags.StringVar(&g.logLevel, "log-level", "info", "debug, info, warn or error")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	root.CompletionOptions.HiddenDefaultCmd = false

	root.AddCommand(
		newMaster(g), newSubmit(g), newRun(g), newList(g), newShow(g), newLogs(g), newCancel(g),
		newShelf(g), newUnshelve(g), newExplain(g), newSlaves(g), newEvents(g), newVersion(g),
	)
	root.AddCommand(hostCommands(g)...)
	for _, c := range root.Commands() {
		if c.Args != nil {
			check := c.Args
			c.Args = func(cmd *cobra.Command, args []string) error { return usage(check(cmd, args)) }
		}
	}
	// Cobra reports an unknown command as a plain error of the root.
	check := root.Args
	root.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usage(fmt.Errorf("unknown command %q; see holdfast --help", args[0]))
		}
		return check(cmd, args)
	}
	return root
}

// dial connects to the master.
func (g *global) dial(ctx context.Context) (*client.Client, error) {
	if err := client.CheckAddr(g.addr); err != nil {
		return nil, usage(fmt.Errorf("--addr: %w", err))
	}
	return client.Dial(ctx, client.Config{Addr: g.addr, Waiting: func(why string) {
		fmt.Fprintf(os.Stderr, "holdfast: waiting for the master at %s: %s\n", g.addr, why)
	}})
}

// with runs f with a connected client.
func (g *global) with(ctx context.Context, f func(*client.Client) error) error {
	c, err := g.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}

// logger writes to standard error.
func (g *global) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(g.logLevel)); err != nil {
		return nil, usage(fmt.Errorf("--log-level %q: use debug, info, warn or error", g.logLevel))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})), nil
}

// person is who asks, for the history.
func person() string {
	for _, name := range []string{"USER", "LOGNAME"} {
		if v := os.Getenv(name); v != "" {
			return v
		}
	}
	return fmt.Sprintf("uid %d", os.Getuid())
}

// stdout is where commands print.
func stdout(cmd *cobra.Command) io.Writer { return cmd.OutOrStdout() }
