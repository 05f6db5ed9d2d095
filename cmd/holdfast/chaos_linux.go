package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"holdfast/cmd/internal/chaos"
)

type chaosOptions struct {
	cfg    chaos.Config
	faults []string
	json   bool
	std    stdio
}

func newChaos(std stdio) *cobra.Command {
	opts := chaosOptions{std: std}
	cmd := command("chaos [--for DURATION] [--slaves N] [--store URL --masters N] [--seed N] [--faults LIST] [--dir DIR] [--self-test] [--keep] [--json]", "Try holdfast on this machine and its disks, under faults",
		`Runs a master, slaves and builds as processes of this machine, cuts and stalls their network,
kills and stops them, fills their disks, then heals everything, waits for all builds to end,
and holds the record against what the steps themselves say they did.

Faults: `+chaos.Names()+`. Disk needs root; what did not happen is named.
With --store the masters share an empty PostgreSQL database, which is left as it is afterwards.
All is in a new directory below --dir, which is removed unless something broke. The same seed
draws the same faults. The first INT or TERM heals and judges now; the second ends at once.

--self-test then falsifies that record in each way that is known, and each has to be found.

Exit codes: 0 everything held, 1 something broke or a falsification was not found.`,
		wants(), func(ctx context.Context, _ []string) error { return opts.run(ctx) })
	f := cmd.Flags()
	f.DurationVar(&opts.cfg.For, "for", time.Minute, "how long there are faults")
	f.IntVar(&opts.cfg.Slaves, "slaves", 8, fmt.Sprintf("how many, 1 to %d", chaos.MaxSlaves))
	f.StringVar(&opts.cfg.Store, "store", "", "`URL` of an empty PostgreSQL database (default: one master on its embedded store)")
	f.IntVar(&opts.cfg.Masters, "masters", 1, fmt.Sprintf("how many, 1 to %d, on --store", chaos.MaxMasters))
	f.Uint64Var(&opts.cfg.Seed, "seed", 0, "of faults and builds (default: another one each time)")
	f.StringSliceVar(&opts.faults, "faults", nil, "`LIST` of those that are to happen (default: all)")
	f.StringVar(&opts.cfg.Dir, "dir", "", "`DIR` on the disk to be tried (default: that for temporary files)")
	f.BoolVar(&opts.cfg.Keep, "keep", false, "keep the directory, whatever the verdict")
	f.BoolVar(&opts.cfg.SelfTest, "self-test", false, "falsify the evidence afterwards: does the judge find it?")
	jsonFlag(cmd, &opts.json)
	_ = cmd.RegisterFlagCompletionFunc("faults", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return strings.Split(chaos.Names(), ", "), cobra.ShellCompDirectiveNoFileComp
	})
	_ = cmd.MarkFlagDirname("dir")
	cmd.PreRun = func(cmd *cobra.Command, _ []string) {
		if !cmd.Flags().Changed("seed") {
			opts.cfg.Seed = rand.Uint64N(1_000_000)
		}
	}
	return cmd
}

func (o *chaosOptions) run(ctx context.Context) error {
	switch {
	case o.cfg.For <= 0:
		return badUsage("--for wants a duration above zero, got %v", o.cfg.For)
	case o.cfg.Slaves < 1 || o.cfg.Slaves > chaos.MaxSlaves:
		return badUsage("--slaves wants 1 to %d, got %d", chaos.MaxSlaves, o.cfg.Slaves)
	}
	for _, name := range o.faults {
		f := chaos.Fault(strings.TrimSpace(name))
		if !slices.Contains(chaos.Faults, f) {
			return badUsage("--faults: there is no %q; there are %s", name, chaos.Names())
		}
		o.cfg.Faults = append(o.cfg.Faults, f)
	}
	unfinished := o.cfg
	unfinished.Exe = "self"
	if err := unfinished.Check(); err != nil {
		return badUsage("%s", strings.TrimPrefix(err.Error(), chaos.ErrInvalid.Error()+": "))
	}
	if o.cfg.Dir != "" {
		if info, err := os.Stat(o.cfg.Dir); err != nil || !info.IsDir() {
			return badUsage("--dir %s is no directory", o.cfg.Dir)
		}
	}
	exe, err := selfCommand()
	if err != nil {
		return err
	}
	o.cfg.Exe = exe[0]
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	signals, unhook := stopSignals()
	defer unhook()
	stop, over := make(chan struct{}), make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-signals:
			close(stop)
		case <-over:
			return
		}
		select {
		case <-signals:
			cancel(errInterrupted)
		case <-over:
		}
	}()
	o.cfg.Stop = stop
	view := newChaosView(o.std.err)
	o.cfg.Progress = view.show
	view.line(fmt.Sprintf("holdfast chaos: %s, %s of faults, seed %d", o.size(), span(o.cfg.For), o.cfg.Seed))
	report, err := chaos.Run(ctx, o.cfg)
	view.end()
	if errors.Is(err, chaos.ErrInvalid) {
		return badUsage("%s", strings.TrimPrefix(err.Error(), chaos.ErrInvalid.Error()+": "))
	}
	if report != nil {
		print := printChaos
		if o.json {
			print = func(out io.Writer, r *chaos.Report) error { return printJSON(out, r) }
		}
		if perr := print(o.std.out, report); err == nil {
			err = perr
		}
	}
	if err == nil && !report.Held() {
		err = &quietError{&resultError{"failed"}}
	}
	return err
}

// size says how large the farm is.
func (o *chaosOptions) size() string {
	if o.cfg.Masters > 1 {
		return plural(o.cfg.Masters, "master") + " and " + plural(o.cfg.Slaves, "slave")
	}
	return plural(o.cfg.Slaves, "slave")
}

// printChaos prints the verdict and the table of faults.
func printChaos(out io.Writer, r *chaos.Report) error {
	t := &table{columns: []column{{title: "FAULT"}, {title: "SURVIVED", right: true}, {title: "NOTE"}}}
	if r.Verdict != "held" {
		t.columns[1].title = "HAPPENED"
	}
	notes := map[chaos.Fault]string{chaos.Quota: plural(r.Blocked, "step") + " waited for room in a spool or on a disk"}
	for _, n := range r.NotTried {
		notes[n.Fault] = "not exercised: " + n.Why
	}
	for _, f := range chaos.Faults {
		if f == chaos.Store && r.Faults[f] == 0 && notes[f] == "" {
			continue // there was none to cut off
		}
		t.add(string(f), fmt.Sprint(r.Faults[f]), notes[f])
	}
	if err := t.print(out); err != nil {
		return err
	}
	var ends []string
	for _, state := range []string{"succeeded", "failed", "cancelled", "shelved", "running", "queued"} {
		if n := r.Ends[state]; n > 0 {
			ends = append(ends, fmt.Sprintf("%d %s", n, state))
		}
	}
	fmt.Fprintf(out, "\n%s (%s), %s, %s, %s, %s of log\n", plural(r.Builds, "build"), strings.Join(ends, ", "),
		plural(int(r.Attempts), "attempt"), plural(r.Steps, "step"), plural(int(r.Updates), "update"), sizeText(r.LogBytes))
	if len(r.SelfTest) > 0 {
		fmt.Fprintln(out)
		t := &table{columns: []column{{title: "FALSIFIED"}, {title: ""}, {title: "BY", max: 90}}}
		for _, f := range r.SelfTest {
			verdict := "found"
			if f.Untried {
				verdict = "-"
			} else if !f.Found {
				verdict = "NOT FOUND"
			}
			t.add(f.What, verdict, f.How)
		}
		if err := t.print(out); err != nil {
			return err
		}
	}
	for _, f := range r.Findings {
		fmt.Fprintf(out, "%s: %s\n", f.Class, clean(f.Text))
	}
	_, err := fmt.Fprintf(out, "\n%s: %d lost, %d doubled, %d misordered, %d other (seed %d)\n", strings.ToUpper(r.Verdict), r.Lost, r.Doubled, r.Misordered, r.Other, r.Seed)
	if err == nil && r.Dir != "" {
		_, err = fmt.Fprintf(out, "everything is in %s\n", clean(r.Dir))
	}
	return err
}

// chaosView shows how far a run is: one line that changes on a terminal, else a
// line now and then.
type chaosView struct {
	out      io.Writer
	terminal bool

	mu    sync.Mutex
	phase string    // guarded by mu
	told  time.Time // guarded by mu
	width int       // guarded by mu; of what stands on the line
}

func newChaosView(out io.Writer) *chaosView {
	f, ok := out.(*os.File)
	return &chaosView{out: out, terminal: ok && term.IsTerminal(int(f.Fd()))}
}

func (v *chaosView) show(s chaos.Status) {
	if s.News != "" {
		v.line(clean(s.News))
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.terminal && s.Phase == v.phase && time.Since(v.told) < 10*time.Second {
		return
	}
	v.phase, v.told = s.Phase, time.Now()
	text := s.Phase
	if s.Elapsed > 0 {
		var faults []string
		for _, f := range chaos.Faults {
			if n := s.Faults[f]; n > 0 {
				faults = append(faults, fmt.Sprintf("%s %d", f, n))
			}
		}
		text = fmt.Sprintf("%s %s | %s, %d under way, %s at work | %s", span(s.Elapsed.Round(time.Second)), s.Phase,
			plural(s.Builds, "build"), s.Underway, plural(s.Holding, "slave"), strings.Join(faults, " "))
	}
	if !v.terminal {
		fmt.Fprintln(v.out, text)
		return
	}
	if width, _, err := term.GetSize(int(v.out.(*os.File).Fd())); err == nil && width > 1 {
		text = cut(text, width-1)
	}
	fmt.Fprintf(v.out, "\r%-*s", v.width, text)
	v.width = len([]rune(text))
}

// line prints a line that stays.
func (v *chaosView) line(text string) {
	v.end()
	v.mu.Lock()
	defer v.mu.Unlock()
	fmt.Fprintln(v.out, text)
}

// end removes the line that changes.
func (v *chaosView) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.width > 0 {
		fmt.Fprintf(v.out, "\r%*s\r", v.width, "")
		v.width = 0
	}
}
