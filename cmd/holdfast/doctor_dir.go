package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"holdfast/master/store/sqlite"
)

const (
	diskWarn = 1 << 30   // bytes free
	diskFail = 256 << 20 // a slave takes no builds below it, by default
	walWarn  = 256 << 20 // bytes of a log that somebody keeps from being emptied
)

// examineDir looks at a data directory. What kind it is, is told by what is in it.
func examineDir(ctx context.Context, dir string) []finding {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return []finding{{"data " + dir, ill, "is no directory that can be read", "name the directory of a master or a slave"}}
	}
	found := []finding{examineDisk(dir)}
	for _, name := range []string{"journal.db", "identity.json", "holdfast.db"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && !info.Mode().IsRegular() {
			return append(found, finding{"data " + dir, ill, name + " is no file", "something else has been put in its place: restore the directory from a backup, or begin with an empty one"})
		}
	}
	isSlave := exists(filepath.Join(dir, "journal.db")) || exists(filepath.Join(dir, "identity.json"))
	isMaster := exists(filepath.Join(dir, "holdfast.db"))
	if isMaster {
		found = append(found, examineStore(ctx, filepath.Join(dir, "holdfast.db"))...)
	}
	if isSlave {
		found = append(found, examineJournal(ctx, dir))
		found = append(found, examineIdentity(dir)...)
		found = append(found, examineLeftovers(dir)...)
	}
	if !isMaster && !isSlave {
		found = append(found, finding{"data " + dir, warn, "neither a master's nor a slave's", "with `holdfast dev` they are in its subdirectories"})
	}
	return found
}

// examineDisk looks at the room that is left.
func examineDisk(dir string) finding {
	free, err := freeBytes(dir)
	f := finding{"disk of " + dir, well, sizeText(free) + " free", ""}
	switch {
	case err != nil:
		f.Verdict, f.Detail = warn, err.Error()
	case free < diskFail:
		f.Verdict, f.Advice = ill, "make room: a slave takes no builds, a master acknowledges nothing once it is full; both go on by themselves"
	case free < diskWarn:
		f.Verdict, f.Advice = warn, "make room before it is full"
	}
	return f
}

// examineStore looks at a master's store, and at who has it open.
func examineStore(ctx context.Context, path string) []finding {
	pids := holders(path)
	var found []finding
	if info, err := os.Stat(path + "-wal"); err == nil && info.Size() > walWarn {
		found = append(found, finding{"log of " + path, warn, fmt.Sprintf("%s; open in %s", sizeText(info.Size()), processes(pids)),
			"a reader that stays in one transaction keeps the log from being emptied: let it end that, or end it; the master is not to be killed for it"})
	}
	check := "store " + path
	if len(pids) > 0 {
		return append(found, finding{check, well, "open in " + processes(pids) + "; what is open is not checked", ""})
	}
	switch err := sqlite.Verify(ctx, path); {
	case errors.Is(err, sqlite.ErrDamaged):
		found = append(found, finding{check, ill, err.Error(), "do not start a master on it. Restore the newest backup of the directory; slaves bring back what they still have, " +
			"as builds marked recovered. Without one, `sqlite3 " + path + " .recover | sqlite3 new.db` saves what can be read; check that with `holdfast doctor` before it takes this file's place. Look for the cause: a disk that lies, or a copy made while the master ran"})
	case err != nil:
		found = append(found, finding{check, warn, "cannot be checked: " + err.Error(), ""})
	default:
		found = append(found, finding{check, well, "whole", ""})
	}
	return found
}

// examineJournal verifies a slave's journal, a copy of it if its agent runs.
func examineJournal(ctx context.Context, dir string) finding {
	f := finding{"journal of " + dir, well, "whole", ""}
	opened, err := inspectJournal(ctx, dir)
	if errors.Is(err, errNotFound) {
		f.Verdict, f.Detail, f.Advice = warn, "there is none", "an agent that starts here makes a new one, and its master ends what it had"
		return f
	}
	if err == nil {
		err = opened.Verify()
		if opened.live {
			f.Detail = "whole (a copy from the running agent)"
		}
		opened.close()
	}
	if err != nil {
		f.Verdict, f.Detail = ill, err.Error()
		f.Advice = "the agent sets a damaged journal aside by itself and starts with a new one; what it held that no master had is lost. Look for the cause: a disk that lies, or a copy made while it ran"
	}
	return f
}

// examineLeftovers names what lies in a slave's directory for people.
func examineLeftovers(dir string) []finding {
	var found []finding
	for _, c := range []struct{ pattern, what, advice string }{
		{"refused/*", "what a master refused, or asked to set aside", "read it, report a defect of holdfast, and delete it"},
		{"orphaned/*", "attempts whose record was lost with the journal", "read them and delete them"},
		{"journal.db.damaged-*", "a damaged journal", "find out what damaged it, and delete it"},
	} {
		list, err := filepath.Glob(filepath.Join(dir, c.pattern))
		if err != nil || len(list) == 0 {
			continue
		}
		slices.Sort(list)
		found = append(found, finding{"left in " + dir, warn, fmt.Sprintf("%s, the first %s: %s", plural(len(list), "file"), filepath.Base(list[0]), c.what), c.advice})
	}
	return found
}

// processes names processes for people.
func processes(pids []int) string {
	var list []string
	for _, pid := range pids {
		list = append(list, strconv.Itoa(pid)+" ("+nameOf(pid)+")")
	}
	if len(list) == 0 {
		return "no process that can be seen"
	}
	return "process " + strings.Join(list, ", ")
}
