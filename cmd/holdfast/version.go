package main

import (
	"context"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// versionDoc is what version prints with --json.
type versionDoc struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func newVersion(std stdio) *cobra.Command {
	var asJSON bool
	cmd := command("version [--json]", "Print the version", "", wants(), func(context.Context, []string) error {
		if asJSON {
			return printJSON(std.out, versionDoc{version, runtime.Version(), runtime.GOOS, runtime.GOARCH})
		}
		_, err := fmt.Fprintf(std.out, "holdfast %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return err
	})
	jsonFlag(cmd, &asJSON)
	return cmd
}
