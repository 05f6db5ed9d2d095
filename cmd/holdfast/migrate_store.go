package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"holdfast/master/store/transfer"
)

type migrateStoreOptions struct {
	from, to, undo string
	json           bool
}

func newMigrateStore(std stdio) *cobra.Command {
	var opts migrateStoreOptions
	cmd := command("migrate-store {--from STORE --to STORE | --undo STORE} [--json]", "Move a stopped master's store to another database",
		`Moves all that a stopped master has stored. A STORE is sqlite:DIR, with a master's data
directory, or postgres://USER@HOST:PORT/DATABASE (PGPASSWORD or ~/.pgpass keep the
password off the command line). The target must be empty.

Everything is read back and compared before a master can start on the target. After that
no master starts on the source: slaves take the two for the same store, and only one of
them may ever be used. --undo makes the source usable again.

Whatever stops it, a full disk or kill -9: the same command again goes on where it stopped.`,
		wants(), func(ctx context.Context, _ []string) error {
			ctx, stop := interruptible(ctx)
			defer stop()
			if opts.undo != "" {
				return opts.runUndo(ctx, std)
			}
			return opts.run(ctx, std)
		})
	f := cmd.Flags()
	f.StringVar(&opts.from, "from", "", "`STORE` to move")
	f.StringVar(&opts.to, "to", "", "`STORE` to move it to")
	f.StringVar(&opts.undo, "undo", "", "`STORE` that was moved, or its directory, to be used again instead of the other")
	jsonFlag(cmd, &opts.json)
	return cmd
}

// migratedDoc is what migrate-store prints. Keys are only ever added.
type migratedDoc struct {
	StoreID  string                      `json:"store_id"`
	From     string                      `json:"from"`
	To       string                      `json:"to"`
	Tables   map[string]migratedTableDoc `json:"tables"`
	Rows     int64                       `json:"rows"`
	Bytes    int64                       `json:"bytes"`
	SHA256   string                      `json:"sha256"`
	Changed  int64                       `json:"changed"` // texts that PostgreSQL cannot keep
	Left     []string                    `json:"left"`    // tables that are not holdfast's
	Resumed  bool                        `json:"resumed"`
	Finished bool                        `json:"finished"` // before this command
	Seconds  float64                     `json:"seconds"`
}

type migratedTableDoc struct {
	Rows   int64  `json:"rows"`
	SHA256 string `json:"sha256"`
}

func (o *migrateStoreOptions) run(ctx context.Context, std stdio) error {
	from, err := storePlace("--from", o.from)
	if err != nil {
		return err
	}
	to, err := storePlace("--to", o.to)
	if err != nil {
		return err
	}
	began := time.Now()
	bar := newMoveBar(std.err)
	r, err := transfer.Move(ctx, transfer.Config{From: from, To: to, Version: version, Progress: bar.show})
	bar.end()
	if err != nil {
		return whyStopped(ctx, err)
	}
	took := time.Since(began)
	if o.json {
		doc := migratedDoc{
			StoreID: r.StoreID, From: from.String(), To: to.String(), Tables: map[string]migratedTableDoc{}, Rows: r.Rows, Bytes: r.Bytes, SHA256: r.SHA256,
			Changed: r.Changed, Left: append([]string{}, r.Left...), Resumed: r.Resumed, Finished: r.Finished, Seconds: took.Round(time.Millisecond).Seconds(),
		}
		for name, t := range r.Tables {
			doc.Tables[name] = migratedTableDoc{Rows: t.Rows, SHA256: t.SHA256}
		}
		return printJSONLines(std.out, []migratedDoc{doc})
	}
	what := "moved"
	if r.Finished {
		what = "already moved"
	}
	fmt.Fprintf(std.out, "%s store %s: %d rows, %s, in %s; read back and equal (SHA-256 %s)\n", what, r.StoreID, r.Rows, sizeText(r.Bytes), span(took), r.SHA256)
	if r.Changed > 0 {
		fmt.Fprintf(std.out, "%s had bytes that PostgreSQL cannot keep; there they are U+FFFD\n", plural(int(r.Changed), "text"))
	}
	if len(r.Left) > 0 {
		fmt.Fprintf(std.out, "left behind, not holdfast's: %s\n", clean(strings.Join(r.Left, ", ")))
	}
	_, err = fmt.Fprintf(std.out, "From now on use only %s, never both: slaves know the store by its id. No master starts on %s any more.\n", to, from)
	return err
}

func (o *migrateStoreOptions) runUndo(ctx context.Context, std stdio) error {
	if o.from != "" || o.to != "" {
		return badUsage("--undo goes without --from and --to")
	}
	text := o.undo
	if info, err := os.Stat(text); err == nil && info.IsDir() {
		text = "sqlite:" + text
	}
	place, err := storePlace("--undo", text)
	if err != nil {
		return err
	}
	to, err := transfer.Undo(ctx, place)
	if err != nil {
		return whyStopped(ctx, err)
	}
	if o.json {
		return printJSONLines(std.out, []changedDoc{{Changed: true}})
	}
	_, err = fmt.Fprintf(std.out, "A master may start on %s again. It knows nothing of what happened since it was moved; never start one on %s as well.\n", place, clean(to))
	return err
}

// storePlace reads a flag.
func storePlace(flag, text string) (transfer.Place, error) {
	if text == "" {
		return transfer.Place{}, badUsage("%s is missing: %w", flag, transfer.ErrPlace)
	}
	p, err := transfer.ParsePlace(text)
	if err != nil {
		return p, badUsage("%s: %w", flag, err)
	}
	return p, nil
}

// whyStopped tells an interruption from what it broke.
func whyStopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(context.Cause(ctx), errInterrupted) {
		return fmt.Errorf("%w; the same command again goes on where this one stopped", errInterrupted)
	}
	return err
}

const (
	barEvery  = 100 * time.Millisecond
	lineEvery = 5 * time.Second
	barWidth  = 30
)

// moveBar shows how far a transfer has come: a bar on a terminal, else a line now and
// then.
type moveBar struct {
	out    io.Writer
	screen *screen // nil: no terminal
	next   time.Time
	phase  transfer.Phase
	began  time.Time // of the phase
	at     int64     // where it began
}

func newMoveBar(out io.Writer) *moveBar {
	b := &moveBar{out: out, next: time.Now().Add(lineEvery)}
	if f := terminal(out); f != nil {
		b.screen = &screen{out: f, size: func() (int, int) {
			width, height, err := term.GetSize(int(f.Fd()))
			if err != nil || width < 1 || height < 1 {
				return 80, 24
			}
			return width, height
		}}
		b.next = time.Time{}
	}
	return b
}

func (b *moveBar) show(p transfer.Progress) {
	now := time.Now()
	if p.Phase != b.phase {
		b.phase, b.began, b.at = p.Phase, now, p.Done
		if b.screen != nil {
			b.next = now
		}
	}
	if now.Before(b.next) {
		return
	}
	if b.screen == nil {
		b.next = now.Add(lineEvery)
		fmt.Fprintf(b.out, "holdfast: %s\n", b.line(p, now, 0))
		return
	}
	b.next = now.Add(barEvery)
	b.screen.setFooter([]string{b.line(p, now, barWidth)})
}

func (b *moveBar) line(p transfer.Progress, now time.Time, width int) string {
	text := string(p.Phase)
	if p.Total == 0 {
		return text
	}
	part := min(1, float64(p.Done)/float64(p.Total))
	if width > 0 {
		full := int(part * float64(width))
		text += " [" + strings.Repeat("#", full) + strings.Repeat(".", width-full) + "]"
	}
	text += fmt.Sprintf(" %3.0f %%, %d of %d rows, %s", 100*part, p.Done, p.Total, p.Table)
	if took := now.Sub(b.began).Seconds(); took >= 1 && p.Done > b.at {
		text += fmt.Sprintf(", %.0f rows/s", float64(p.Done-b.at)/took)
	}
	return text
}

// end removes the bar.
func (b *moveBar) end() {
	if b.screen != nil {
		b.screen.setFooter(nil)
	}
}
