package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"holdfast/journal"
	"holdfast/slave/runner"
)

// hostCommands are those that need what only Linux has.
func hostCommands(g *global) []*cobra.Command {
	return []*cobra.Command{newDev(g), newSlave(g), newJournal(g)}
}

func init() {
	hidden["runner"] = runner.Main
	hidden["journal-verify"] = verifyJournal
}

// verifyJournal is the agent's child: a damaged file may crash or hang it
// without harm.
func verifyJournal(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "usage: holdfast journal-verify FILE")
		return exitUsage
	}
	if err := journal.Verify(args[0]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return journal.ExitCorrupt
	}
	return exitOK
}
