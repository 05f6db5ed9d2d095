package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"holdfast/journal"
	"holdfast/proto/rpcerr"
	"holdfast/slave"
)

func newJournal(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "journal",
		Short: "Look into a slave's journal, whether its agent runs or not",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	add := func(use, short string, look func(context.Context, *journal.Inspector, io.Writer) error) {
		cmd.AddCommand(&cobra.Command{
			Use:   use + " DIR",
			Short: short,
			Args:  func(cmd *cobra.Command, args []string) error { return usage(cobra.ExactArgs(1)(cmd, args)) },
			RunE: func(cmd *cobra.Command, args []string) error {
				return inspectJournal(cmd.Context(), args[0], func(i *journal.Inspector) error { return look(cmd.Context(), i, stdout(cmd)) })
			},
		})
	}
	add("ls", "List what the slave still holds", func(_ context.Context, i *journal.Inspector, out io.Writer) error {
		return listJournal(g, i, out)
	})
	add("dump", "Print every record, one JSON object a line", func(_ context.Context, i *journal.Inspector, out io.Writer) error {
		return i.Dump(out)
	})
	add("verify", "Check the whole file", func(_ context.Context, i *journal.Inspector, out io.Writer) error {
		if err := i.Verify(); err != nil {
			return err
		}
		if g.json {
			return printJSON(out, map[string]bool{"ok": true})
		}
		_, err := fmt.Fprintln(out, "the journal is intact")
		return err
	})
	return cmd
}

// inspectJournal asks a running agent for a consistent copy, since copying a
// live file gives false alarms; a dead agent's file is read as it is.
func inspectJournal(ctx context.Context, dir string, look func(*journal.Inspector) error) error {
	path := filepath.Join(dir, "journal.db")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return rpcerr.New(rpcerr.NotFound, "%s holds no journal: give the slave's --data directory", dir)
	}
	temp, err := os.MkdirTemp("", "holdfast-journal-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	copied := filepath.Join(temp, "journal.db")
	f, err := os.Create(copied)
	if err != nil {
		return err
	}
	err = errors.Join(slave.CopyJournal(ctx, dir, f), f.Close())
	switch {
	case err == nil:
		path = copied
	case !errors.Is(err, slave.ErrNotRunning):
		return err
	}
	i, err := journal.Inspect(path)
	if err != nil {
		return err
	}
	defer i.Close()
	return look(i)
}

func listJournal(g *global, i *journal.Inspector, out io.Writer) error {
	streams, err := i.List()
	if err != nil {
		return err
	}
	rows := [][]string{{"STREAM", "HELD", "NEXT", "ACKED", "ENTRIES", "BYTES", "OLDEST"}}
	for _, s := range streams {
		if g.json {
			v := struct {
				Stream    string  `json:"stream"`
				FirstHeld uint64  `json:"first_held"`
				Next      uint64  `json:"next"`
				Acked     uint64  `json:"acked"`
				Entries   int     `json:"entries"`
				Bytes     int64   `json:"bytes"`
				Oldest    *string `json:"oldest"`
			}{s.Name, s.FirstHeld, s.Next, s.Acked, s.Entries, s.Bytes, nil}
			if !s.Oldest.IsZero() {
				v.Oldest = at(s.Oldest.UnixMicro())
			}
			if err := printJSON(out, v); err != nil {
				return err
			}
			continue
		}
		oldest := "-"
		if !s.Oldest.IsZero() {
			oldest = took(time.Since(s.Oldest))
		}
		rows = append(rows, []string{clean(s.Name, 32), fmt.Sprint(s.FirstHeld), fmt.Sprint(s.Next), fmt.Sprint(s.Acked),
			fmt.Sprint(s.Entries), size(s.Bytes), oldest})
	}
	if g.json {
		return nil
	}
	return table(out, rows...)
}
