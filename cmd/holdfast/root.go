package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
)

// execute runs one command line and returns the exit code.
func execute(ctx context.Context, args []string, std stdio) int {
	root := newRoot(std)
	root.SetArgs(append([]string{}, args...)) // nil would mean os.Args
	cmd, err := root.ExecuteContextC(ctx)
	var ran *ranError
	if err != nil && !errors.As(err, &ran) {
		// Found by cobra before any of our code ran.
		err = &usageError{err: plainWords(err)}
	}
	if ran != nil {
		err = ran.err
	}
	if errors.Is(err, client.ErrAddress) && !errors.As(err, new(*usageError)) {
		err = &usageError{err: err}
	}
	var usage *usageError
	if errors.As(err, &usage) && usage.use == "" && !isFileError(err) {
		usage.use = useOf(cmd)
	}
	report(std.err, err)
	return exitCode(err)
}

// useOf is the line that shows how a command is used.
func useOf(cmd *cobra.Command) string {
	line := cmd.UseLine()
	if cmd.HasAvailableSubCommands() {
		line = cmd.CommandPath() + " COMMAND"
	}
	return line + "   (see " + cmd.CommandPath() + " --help)"
}

// plainWords puts cobra's guess at what was meant on the same line.
func plainWords(err error) error {
	text, guess, ok := strings.Cut(err.Error(), "\n\nDid you mean this?\n")
	if !ok {
		return err
	}
	return fmt.Errorf("%s; did you mean %s?", text, strings.Join(strings.Fields(guess), " or "))
}

// ranError is an error of a command, not of its command line.
type ranError struct{ err error }

func (e *ranError) Error() string { return e.err.Error() }

func newRoot(std stdio) *cobra.Command {
	root := &cobra.Command{
		Use:   "holdfast",
		Short: "Builds on machines behind bad networks, without losing a word they say",
		Long: `holdfast runs builds on slaves and keeps everything they say in a master's store,
whatever happens to the network, to the processes, or to the machines' patience.

Exit codes: 0 ok, 1 build failed, 2 usage, 3 build cancelled, 4 build shelved,
5 master unreachable, 6 not found, 7 refused or conflict, 70 internal error,
130 interrupted (a followed build goes on).`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	groups := []struct {
		id, title string
		commands  []*cobra.Command
	}{
		{"builds", "Builds:", []*cobra.Command{
			newSubmit(std), newRun(std), newLs(std), newShow(std), newLogs(std), newExplain(std),
			newCancel(std), newShelf(std), newUnshelve(std), newReprioritise(std), newWaits(std), newHistory(std),
		}},
		{"farm", "The farm:", []*cobra.Command{
			newDev(std), newMaster(std), addSlaveChanges(newSlave(std), std), newSlaves(std), newMasters(std), newBrake(std), newEvents(std), newJournal(std), newDoctor(std), newMigrateStore(std), newChaos(std),
		}},
		{"", "", []*cobra.Command{newVersion(std), newCompletion(std)}},
	}
	for _, g := range groups {
		if g.id != "" {
			root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		}
		for _, c := range g.commands {
			c.GroupID = g.id
			root.AddCommand(c)
		}
	}
	return root
}

// command makes a cobra command of a run function, whose errors it marks as
// the command's own.
func command(use, short, long string, args cobra.PositionalArgs, run func(ctx context.Context, args []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long, Args: args,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := run(cmd.Context(), args); err != nil {
				return &ranError{err}
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}
