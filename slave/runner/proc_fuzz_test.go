//go:build linux

package runner

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzStat: a row of /proc says what the kernel has put there, whatever the
// process calls itself; and anything else is read without a panic.
func FuzzStat(f *testing.F) {
	f.Add("cat", "S", 7, 8, []byte("7 (a) b) S 1 2"))
	f.Add(") R 1 1 (", "R", 1, 0, []byte(")("))
	f.Add("\xff\n", "Z", -1, -1, []byte("7 ()"))
	f.Fuzz(func(t *testing.T, name, state string, parent, group int, raw []byte) {
		const pid = 1 << 30 // beyond what a kernel gives out: it has no tasks
		if p, _, ok := parseStat(pid, raw); ok && (len(p.name) > maxName || !utf8.ValidString(p.name) || p.pid != pid) {
			t.Errorf("%q is %+v", raw, p)
		}
		if len(strings.Fields(state)) != 1 || strings.TrimSpace(state) != state || strings.Contains(state, ")") {
			return
		}
		p, ended, ok := parseStat(pid, fmt.Appendf(nil, "%d (%s) %s %d %d 0 -1 4194560", pid, name, state, parent, group))
		want := process{pid: pid, parent: parent, group: group, name: cut(name, maxName)}
		if !ok || p != want || ended != (state == "Z" || state == "X") {
			t.Errorf("%+v, ended %v, %v; want %+v", p, ended, ok, want)
		}
	})
}

// FuzzHierarchies: a mount and this process's place in it are found as the kernel
// writes them, whatever their names hold; and anything else is read without a
// panic, and no group is outside its mount.
func FuzzHierarchies(f *testing.F) {
	f.Add("/sys/fs/cgroup", "/", "/a/b", "rw,nsdelegate", []byte("x - y"), []byte("0::/"))
	f.Add("/mnt/a b\\040\t", "/docker/x", "/docker/x/y", "rw", []byte("1 2 3 / /m - cgroup2 c rw"), []byte("0::/../.."))
	f.Add("/m\v\u00a0", "/", "/", "rw", []byte("1 2 3 /.. /m rw - cgroup c rw,freezer"), []byte("5:cpu,freezer:/../x\n"))
	escape := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`)
	f.Fuzz(func(t *testing.T, mount, root, path, options string, mounts, member []byte) {
		for _, h := range parseHierarchies(string(mounts), string(member)) {
			if h.own != "" && !within(h.own, h.mount) {
				t.Errorf("%q is outside of %q", h.own, h.mount)
			}
		}
		clean := func(s string) bool {
			return s != "" && s[0] == '/' && filepath.Clean(s) == s && !strings.Contains(s, "\x00")
		}
		if !clean(mount) || !clean(root) || !clean(path) || strings.ContainsAny(path, "\n\r") || strings.ContainsAny(options, " \n") || strings.HasPrefix(path, "/..") {
			return
		}
		line := fmt.Sprintf("36 25 0:31 %s %s rw,nosuid shared:9 - cgroup2 cgroup2 rw%s\n", escape.Replace(root), escape.Replace(mount), options)
		list := parseHierarchies("30 1 8:1 / / rw - ext4 /dev/root rw\n"+line, "9:freezer:/elsewhere\n0::"+path+"\n")
		want := hierarchy{mount: mount, v2: true}
		if rest, ok := strings.CutPrefix(path, strings.TrimSuffix(root, "/")); ok && (rest == "" || rest[0] == '/') {
			want.own = filepath.Join(mount, rest)
		}
		if len(list) != 1 || list[0] != want {
			t.Errorf("%q: %+v, want %+v", line, list, want)
		}
	})
}

// within reports whether path is dir or below it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}
