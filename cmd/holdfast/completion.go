package main

import (
	"bytes"
	"context"

	"github.com/spf13/cobra"
)

func newCompletion(std stdio) *cobra.Command {
	var cmd *cobra.Command
	cmd = command("completion {bash|zsh|fish}", "Print the script that completes commands in a shell",
		`Prints a script for the shell to read, for instance:

  source <(holdfast completion bash)`,
		wants("one of bash, zsh, fish"), func(_ context.Context, args []string) error {
			var b bytes.Buffer
			var err error
			switch root := cmd.Root(); args[0] {
			case "bash":
				err = root.GenBashCompletionV2(&b, true)
			case "zsh":
				err = root.GenZshCompletion(&b)
			case "fish":
				err = root.GenFishCompletion(&b, true)
			default:
				return badUsage("there is completion for bash, zsh and fish, not for %q", args[0])
			}
			if err != nil {
				return err
			}
			_, err = std.out.Write(b.Bytes())
			return err
		})
	cmd.ValidArgs = []string{"bash", "zsh", "fish"}
	cmd.ValidArgsFunction = nil
	return cmd
}
