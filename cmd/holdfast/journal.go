package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"holdfast/journal"
)

func newJournal(std stdio) *cobra.Command {
	cmd := &cobra.Command{
		Use: "journal", Short: "Look into a slave's journal, while it runs or after it died",
		Long: `Reads the journal of the slave whose data is in DIR. A running agent is asked for a consistent
copy over DIR/agent.sock; otherwise the file is read as it is. Nothing is ever written.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("there is no %s %q: ls, dump, verify", cmd.CommandPath(), args[0])
			}
			return fmt.Errorf("%s wants one of ls, dump, verify", cmd.CommandPath())
		},
		Run: func(*cobra.Command, []string) {},
	}
	add := func(use, short string, run func(opened *openJournal, out io.Writer, asJSON bool) error) {
		var asJSON bool
		c := command(use, short, "", wants("a slave's data directory"), func(ctx context.Context, args []string) error {
			ctx, stop := interruptible(ctx)
			defer stop()
			opened, err := inspectJournal(ctx, args[0])
			if err != nil {
				return err
			}
			defer opened.close()
			return run(opened, std.out, asJSON)
		})
		c.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		}
		jsonFlag(c, &asJSON)
		cmd.AddCommand(c)
	}
	add("ls DIR [--json]", "List the streams: one per attempt, and the agent's own", listJournal)
	add("dump DIR [--json]", "Print everything in it; with --json one object per line", dumpJournal)
	add("verify DIR [--json]", "Check every page and record", verifyJournal)
	return cmd
}

// openJournal is a journal to look into.
type openJournal struct {
	*journal.Inspector
	path string // what people call it
	live bool   // a copy from the running agent
	temp string // to be removed
}

func (o *openJournal) close() {
	_ = o.Inspector.Close()
	if o.temp != "" {
		_ = os.Remove(o.temp)
	}
}

// inspectJournal gets at the journal in dir. An agent may start or stop at any
// time: then the other way is taken.
func inspectJournal(ctx context.Context, dir string) (*openJournal, error) {
	path := filepath.Join(dir, "journal.db")
	if info, err := os.Stat(dir); err == nil && info.Mode().IsRegular() {
		path = dir // the file itself, set aside or copied
	} else if _, err := os.Stat(path); err != nil {
		return nil, notFound(fmt.Sprintf("journal of %s", dir), err)
	}
	for tries := 0; ; tries++ {
		if path != dir {
			opened, err := copyOfRunning(ctx, dir, path)
			if opened != nil || err != nil {
				return opened, err
			}
		}
		i, err := journal.Inspect(path)
		if err == nil {
			return &openJournal{Inspector: i, path: path}, nil
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil, notFound(path, err)
		}
		if !errors.Is(err, journal.ErrLocked) || tries == 20 {
			return nil, err
		}
		select {
		case <-time.After(100 * time.Millisecond): // an agent that is starting
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// copyOfRunning returns a copy made by the agent that runs on dir; nil: none
// runs.
func copyOfRunning(ctx context.Context, dir, path string) (*openJournal, error) {
	temp, err := os.CreateTemp("", "holdfast-journal-*.db")
	if err != nil {
		return nil, err
	}
	remove := func() { _ = os.Remove(temp.Name()) }
	ok, err := copyJournal(ctx, dir, temp)
	err = errors.Join(err, temp.Close())
	if err != nil || !ok {
		remove()
		return nil, err
	}
	i, err := journal.Inspect(temp.Name())
	if err != nil {
		remove()
		return nil, err
	}
	return &openJournal{Inspector: i, path: path, live: true, temp: temp.Name()}, nil
}

type journalDoc struct {
	ID        string      `json:"id"`
	CreatedAt string      `json:"created_at"`
	Live      bool        `json:"live"`
	Streams   []streamDoc `json:"streams"`
}

type streamDoc struct {
	Name      string  `json:"name"`
	Acked     uint64  `json:"acked"`
	FirstHeld uint64  `json:"first_held"`
	Next      uint64  `json:"next"`
	Entries   int     `json:"entries"`
	Bytes     int64   `json:"bytes"`
	Puts      int     `json:"puts"`
	PutBytes  int64   `json:"put_bytes"`
	OldestAt  *string `json:"oldest_at"`
}

func listJournal(o *openJournal, out io.Writer, asJSON bool) error {
	id, created, err := o.ID()
	if err != nil {
		return err
	}
	streams, err := o.List()
	if err != nil {
		return err
	}
	doc := journalDoc{ID: id, CreatedAt: stamp(created.UnixMicro()), Live: o.live, Streams: []streamDoc{}}
	t := &table{columns: []column{
		{title: "STREAM", max: 40}, {title: "ACKED", right: true}, {title: "NEXT", right: true}, {title: "ENTRIES", right: true},
		{title: "SIZE", right: true}, {title: "KEYS", right: true}, {title: "OLDEST"},
	}}
	for _, s := range streams {
		oldest := int64(0)
		if !s.Oldest.IsZero() {
			oldest = s.Oldest.UnixMicro()
		}
		doc.Streams = append(doc.Streams, streamDoc{s.Name, s.Acked, s.FirstHeld, s.Next, s.Entries, s.Bytes, s.Puts, s.PutBytes, timeOrNull(oldest)})
		t.add(s.Name, fmt.Sprint(s.Acked), fmt.Sprint(s.Next), fmt.Sprint(s.Entries), sizeText(s.Bytes+s.PutBytes), fmt.Sprint(s.Puts), clock(oldest))
	}
	if asJSON {
		return printJSON(out, doc)
	}
	from := "read from " + o.path
	if o.live {
		from = "copied from the running agent"
	}
	if _, err := fmt.Fprintf(out, "journal %s, created %s, %s\n", clean(id), clock(created.UnixMicro()), clean(from)); err != nil {
		return err
	}
	return t.print(out)
}

func dumpJournal(o *openJournal, out io.Writer, asJSON bool) error {
	w := bufio.NewWriter(out)
	if asJSON {
		if err := o.Dump(w); err != nil {
			return errors.Join(w.Flush(), err)
		}
		return w.Flush()
	}
	err := o.Records(func(r journal.Record) error {
		switch r.Type {
		case "journal":
			fmt.Fprintf(w, "journal %s, created %s\n", clean(r.ID), stamp(r.At.UnixMicro()))
		case "stream":
			fmt.Fprintf(w, "\nstream %s: acked %d, next %d\n", clean(r.Stream), r.Acked, r.Next)
		case "put":
			fmt.Fprintf(w, "  key %s: %s\n", clean(r.Key), bytesText(r.Value))
		case "entry":
			fmt.Fprintf(w, "  entry %d-%d, %s, %s: %s\n", r.First, r.Last, stamp(r.At.UnixMicro()), plural(r.DataLen, "byte"), bytesText(r.Data))
		}
		return nil
	})
	return errors.Join(w.Flush(), err)
}

// bytesText shows opaque bytes: as they are if they are text, else in base64.
func bytesText(b []byte) string {
	const limit = 2000
	text := string(b)
	if clean(text) != text {
		text = "base64:" + base64.StdEncoding.EncodeToString(b)
	}
	return cut(text, limit)
}

type verifyDoc struct {
	Path  string  `json:"path"`
	Live  bool    `json:"live"`
	OK    bool    `json:"ok"`
	Error *string `json:"error"`
}

func verifyJournal(o *openJournal, out io.Writer, asJSON bool) error {
	err := o.Verify()
	if asJSON {
		doc := verifyDoc{Path: o.path, Live: o.live, OK: err == nil}
		if err != nil {
			doc.Error = orNull(err.Error())
		}
		return errors.Join(printJSON(out, doc), err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", o.path, err)
	}
	what := ""
	if o.live {
		what = " (a copy from the running agent)"
	}
	_, err = fmt.Fprintf(out, "%s%s: intact\n", clean(o.path), what)
	return err
}
