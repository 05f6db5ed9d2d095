//go:build !linux

package main

import (
	"errors"
	"runtime"

	"github.com/spf13/cobra"
)

// hostCommands says of each command that needs Linux that it does.
func hostCommands(*global) []*cobra.Command {
	var list []*cobra.Command
	for _, name := range []string{"dev", "slave", "journal"} {
		list = append(list, &cobra.Command{
			Use:                name,
			Short:              "Runs on Linux only",
			DisableFlagParsing: true,
			RunE: func(*cobra.Command, []string) error {
				return usage(errors.New(name + " runs on Linux only, and this is " + runtime.GOOS))
			},
		})
	}
	return list
}
