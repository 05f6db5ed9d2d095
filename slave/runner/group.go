package runner

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A runner puts itself, and so all that its steps will ever start, into a
// control group of its own where it may make one: as root, or in a subtree that
// was delegated to it (systemd: Delegate=yes). A process that has left its
// session, its parents and its environment is still in its group.
//
// A group is found by its name alone, which says whose it is: no file has to be
// believed, and no agent has to remember anything. One that is root can move
// itself out, and is then found by its marks, if it has kept them.

// groupPrefix begins the name of each group of ours.
const groupPrefix = "holdfast-"

// groupName is the name of an attempt's group; empty: the data directory cannot
// be told from others.
func groupName(home, attempt string) string {
	if home == "" {
		return ""
	}
	return groupPrefix + strings.ReplaceAll(home, ":", "-") + "-" + attempt
}

// hierarchy is one mounted tree of control groups in which processes can be
// ended whatever they do: cgroups of version 2, or the freezer of version 1.
type hierarchy struct {
	mount string // where it is
	own   string // the directory of this process's group; empty: out of sight
	v2    bool
}

// hierarchies lists them, version 2 first. None is no error.
func hierarchies() []hierarchy {
	mounts, err1 := os.ReadFile("/proc/self/mountinfo")
	member, err2 := os.ReadFile("/proc/self/cgroup")
	if err1 != nil || err2 != nil {
		return nil
	}
	return parseHierarchies(string(mounts), string(member))
}

// parseHierarchies reads "id parent dev root mount options … - type source super"
// and "id:controllers:path".
func parseHierarchies(mounts, member string) (list []hierarchy) {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(mounts) {
		line = strings.TrimSuffix(line, "\n")
		left, right, ok := strings.Cut(line, " - ")
		at, what := strings.Split(left, " "), strings.Split(right, " ")
		if !ok || len(at) < 5 || len(what) < 3 {
			continue
		}
		var path string
		h := hierarchy{mount: unescape.Replace(at[4])}
		switch {
		case what[0] == "cgroup2":
			h.v2, path = true, memberOf(member, "")
		case what[0] == "cgroup" && has(what[2], "freezer"):
			path = memberOf(member, "freezer")
		default:
			continue
		}
		// The mount shows a part of the tree: from root on.
		root := strings.TrimSuffix(unescape.Replace(at[3]), "/")
		if rest, ok := strings.CutPrefix(path, root); ok && (rest == "" || rest[0] == '/') && filepath.Clean(path) == path {
			h.own = filepath.Join(h.mount, rest)
		}
		if h.v2 {
			list = append([]hierarchy{h}, list...)
		} else {
			list = append(list, h)
		}
	}
	return list
}

// memberOf is the path of the group in the hierarchy of a controller; empty
// means version 2.
func memberOf(member, controller string) string {
	for line := range strings.Lines(member) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) == 3 && (controller == "" && parts[0] == "0" && parts[1] == "" || controller != "" && has(parts[1], controller)) {
			return parts[2]
		}
	}
	return ""
}

func has(list, word string) bool {
	for w := range strings.SplitSeq(list, ",") {
		if w == word {
			return true
		}
	}
	return false
}

// joinGroup puts this process into the group of its attempt and returns how to
// leave it. An error says why there is none; the marks have to do then.
func joinGroup(dir string, in []hierarchy) (leave func(), err error) {
	name := groupName(homeOf(homeOfAttempt(dir)), filepath.Base(dir))
	err = errors.New("no control groups that can be frozen or killed")
	if name == "" {
		return nil, errors.New("the data directory cannot be told from others")
	}
	for _, h := range in {
		if h.own == "" {
			continue
		}
		path := filepath.Join(h.own, name)
		// An agent that starts removes empty groups: once more, then.
		for range 3 {
			if err = os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				break
			}
			if err = enter(path); err == nil {
				return func() { _ = errors.Join(enter(h.own), os.Remove(path)) }, nil // at worst an empty one stays
			}
			_ = os.Remove(path)
			if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENODEV) {
				break
			}
		}
	}
	return nil, err
}

// enter moves this process into a group.
func enter(group string) error {
	return os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
}

// groups finds the groups of an attempt in all hierarchies, wherever the agent
// that started it was: it may have been another one.
func groups(home, attempt string) []string {
	name := groupName(home, attempt)
	if name == "" {
		return nil
	}
	return findGroups(hierarchies(), func(n string) bool { return n == name })
}

func findGroups(in []hierarchy, match func(name string) bool) (found []string) {
	for _, h := range in {
		_ = filepath.WalkDir(h.mount, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return fs.SkipDir // not for us to see, or gone
			}
			if d.IsDir() && match(d.Name()) {
				found = append(found, path)
			}
			return nil
		})
	}
	return found
}

// CanGroup reports whether runners that this process starts for attempts of a
// data directory get groups, by making one.
func CanGroup(home string) bool {
	name := groupName(homeOf(home), "probe")
	for _, h := range hierarchies() {
		if h.own == "" || name == "" {
			continue
		}
		path := filepath.Join(h.own, name)
		if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			continue
		}
		if os.Remove(path) == nil {
			return true
		}
	}
	return false
}

// InGroup reports whether the attempt's group is beside this process's own: of a
// runner that this process has started and that had one, it says whether
// anything is left, at next to no cost.
func InGroup(dir string) bool {
	name := groupName(homeOf(homeOfAttempt(dir)), filepath.Base(dir))
	for _, h := range hierarchies() {
		if h.own == "" || name == "" {
			continue
		}
		if _, err := os.Lstat(filepath.Join(h.own, name)); !errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	return false
}

// SweepGroups removes the empty groups that dead runners of a data directory
// left. It spares those that hold a process, and those of attempts whose directory
// is there: an empty group is how KillMarked knows at once that nothing is left.
func SweepGroups(home string) {
	prefix := groupName(homeOf(home), "")
	if prefix == "" {
		return
	}
	removeGroups(findGroups(hierarchies(), func(n string) bool {
		attempt, ours := strings.CutPrefix(n, prefix)
		if !ours {
			return false
		}
		_, err := os.Lstat(filepath.Join(home, "attempts", attempt))
		return attempt == "" || errors.Is(err, fs.ErrNotExist)
	}))
}

// removeGroups removes groups, and those that a step has made in them. One that
// holds a process stays.
func removeGroups(list []string) {
	for _, group := range list {
		var all []string
		_ = walkGroup(group, func(_ *os.Root, path string) error {
			all = append(all, path)
			return nil
		})
		root, err := os.OpenRoot(group)
		if err != nil {
			continue
		}
		for i := len(all) - 1; i > 0; i-- { // children first; the first of all is the group
			_ = root.Remove(all[i])
		}
		root.Close()
		_ = os.Remove(group)
	}
}

// killGroups is killGroup for each of them.
func killGroups(ctx context.Context, list []string) (found []process, err error) {
	for _, group := range list {
		some, err := killGroup(ctx, group)
		if err != nil {
			return nil, err
		}
		found = append(found, some...)
	}
	return found, nil
}

// killGroup kills once whatever is in the group and below it, this process
// excepted, and returns who was there. It is called until nobody is.
func killGroup(ctx context.Context, group string) ([]process, error) {
	found, err := membersOf(group)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	// All at once, forks in progress included: version 2, Linux 5.14.
	if !isIn(found, os.Getpid()) && os.WriteFile(filepath.Join(group, "cgroup.kill"), []byte("1"), 0) == nil {
		return found, nil
	}
	// Who cannot run cannot fork: freeze, look, kill, thaw.
	state := filepath.Join(group, "freezer.state")
	frozen := !isIn(found, os.Getpid()) && os.WriteFile(state, []byte("FROZEN"), 0) == nil
	if frozen {
		awaitFrozen(ctx, state)
		if now, err := membersOf(group); err == nil {
			found = now
		}
	}
	for _, p := range found {
		if p.pid != os.Getpid() {
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
		}
	}
	if frozen {
		if err := os.WriteFile(state, []byte("THAWED"), 0); err != nil {
			return found, fmt.Errorf("thaw %s: %w", group, err) // they cannot even die
		}
	}
	thaw(group)
	return found, nil
}

// thaw lets go on what stands still in a group of version 1 and below it: a step
// can freeze them, and nobody dies before. In version 2 they do.
func thaw(group string) {
	_ = walkGroup(group, func(root *os.Root, path string) error {
		if f, err := root.OpenFile(filepath.Join(path, "freezer.state"), os.O_WRONLY, 0); err == nil { // not made: elsewhere it is none
			_, _ = f.WriteString("THAWED")
			f.Close()
		}
		return nil
	})
}

// Thaw lets go on what a step has frozen of an attempt, its runner with it: that
// can then be killed.
func Thaw(dir string) {
	for _, group := range groups(homeOf(homeOfAttempt(dir)), filepath.Base(dir)) {
		thaw(group)
	}
}

// freezePatience is how long a group may take to stand still: something in it
// may be in a call that cannot be interrupted. Then it is killed as it is.
const freezePatience = 200 * time.Millisecond

func awaitFrozen(ctx context.Context, state string) {
	for end := time.Now().Add(freezePatience); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(time.Millisecond) {
		if b, err := os.ReadFile(state); err != nil || string(bytes.TrimSpace(b)) == "FROZEN" {
			return
		}
	}
}

// membersOf lists the processes in a group and below it that still run.
func membersOf(group string) (found []process, err error) {
	err = walkGroup(group, func(root *os.Root, path string) error {
		f, err := root.Open(filepath.Join(path, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close()
		for in := bufio.NewScanner(f); in.Scan(); {
			pid, err := strconv.Atoi(in.Text())
			if err != nil || pid <= 0 {
				continue // 0: in another pid namespace, out of our sight
			}
			if p, ended, ok := stat(pid); ok && !ended {
				found = append(found, p)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look into %s: %w", group, err)
	}
	return found, nil
}

// walkGroup calls fn for a group and each below it, those above others first, and
// returns the first error after all of them. A step that is root can make groups
// whose path is too long to be used.
func walkGroup(group string, fn func(root *os.Root, path string) error) error {
	root, err := os.OpenRoot(group)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // gone: empty
	}
	if err != nil {
		return err
	}
	defer root.Close()
	var first error
	_ = fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = fn(root, path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && first == nil {
			first = err
		}
		return nil
	})
	return first
}

func isIn(list []process, pid int) bool {
	for _, p := range list {
		if p.pid == pid {
			return true
		}
	}
	return false
}
