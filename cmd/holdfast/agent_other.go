//go:build !linux

package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// Slaves are Linux machines; master and the other commands run elsewhere too.

func newSlave(stdio) *cobra.Command { return linuxOnly("slave", "Run a slave (Linux only)") }

func newDev(stdio) *cobra.Command {
	return linuxOnly("dev", "Run a master and a slave on this machine (Linux only)")
}

func newChaos(stdio) *cobra.Command {
	return linuxOnly("chaos", "Try holdfast on this machine, under faults (Linux only)")
}

func linuxOnly(name, short string) *cobra.Command {
	cmd := command(name, short, "", nil, func(context.Context, []string) error {
		return fmt.Errorf("slaves run on Linux only: %w", errRefused)
	})
	cmd.DisableFlagParsing = true
	return cmd
}

func copyJournal(context.Context, string, io.Writer) (bool, error) { return false, nil }

func slaveExitCode(error) (int, bool) { return 0, false }
