package power

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

const sectorSize = 512

// node is a file or directory as the disk surely has it.
type node struct {
	dir   bool
	fifo  bool
	data  []byte
	names map[string]int // of a directory: nodes by name
	live  map[string]int // the same as processes see it
	size  int64          // of a file, as processes see it
}

// change is one thing that a process did to a node, and that no sync has
// covered yet.
type change struct {
	node  int
	ended int // place in the trace
	off   int64
	data  []byte
	size  int64 // the file's size after it; -1: it says nothing about that
	cut   bool  // it made the file shorter
	names []naming
	text  string
}

// naming is one name that a change sets; node 0 removes it.
type naming struct {
	name string
	node int
}

// disk follows a trace. Node 1 is the directory that is watched.
type disk struct {
	root, marksPath string
	nodes           []*node
	pending         []change
	marks           []string
	cuts            int
	lies            func(*node) bool // syncs of such a node do nothing

	pos      map[string]int64 // by descriptor and path
	appends  map[int]bool     // nodes that were opened for appending
	finished bool
}

func newDisk(dir string) *disk {
	d := &disk{
		root: filepath.Join(dir, "disk"), marksPath: filepath.Join(dir, marksFile),
		pos: make(map[string]int64), appends: make(map[int]bool), nodes: []*node{nil},
		lies: func(*node) bool { return false },
	}
	d.add(&node{dir: true})
	return d
}

func (d *disk) add(n *node) int {
	if n.dir {
		n.names, n.live = make(map[string]int), make(map[string]int)
	}
	d.nodes = append(d.nodes, n)
	return len(d.nodes) - 1
}

// play follows the calls and stops before each sync that makes something
// durable, and at the end.
func (d *disk) play(calls []call, cut func() error) error {
	// What is pending is so from its beginning, what is durable from its end.
	type event struct {
		at int
		*call
	}
	var events []event
	for i := range calls {
		c := &calls[i]
		at := c.begun
		if isSync(c.name) {
			at = c.end
		}
		events = append(events, event{at, c})
	}
	slices.SortStableFunc(events, func(a, b event) int { return a.at - b.at })
	for _, e := range events {
		if !isSync(e.name) {
			if err := d.follow(e.call); err != nil {
				return fmt.Errorf("call %d, %s %.200q: %w", e.begun, e.name, e.args, err)
			}
			continue
		}
		n := d.find(e.args[0])
		if n == 0 || !slices.ContainsFunc(d.pending, func(p change) bool { return p.node == n && p.ended < e.begun }) {
			continue
		}
		d.cuts++
		if err := cut(); err != nil {
			return err
		}
		if !d.lies(d.nodes[n]) {
			d.sync(n, e.begun)
		}
	}
	d.finished = true
	d.cuts++
	return cut()
}

func isSync(call string) bool { return call == "fsync" || call == "fdatasync" }

// sync makes durable what had been done to a node before the sync began.
func (d *disk) sync(n, begun int) {
	covered := func(p change) bool { return p.node == n && p.ended < begun }
	var v volume
	for _, p := range d.pending {
		if covered(p) {
			v.changes = append(v.changes, p)
		}
	}
	v.apply(d.nodes[n], n)
	d.nodes[n].data, d.nodes[n].names = v.data, v.names
	d.pending = slices.DeleteFunc(d.pending, covered)
}

// find returns the node that a path names now; 0: it is none of ours.
func (d *disk) find(path string) int {
	dir, name := d.parent(path)
	switch {
	case path == d.root:
		return 1
	case dir == 0:
		return 0
	}
	return d.nodes[dir].live[name]
}

// parent returns the directory of a path below the root, and the last name.
func (d *disk) parent(path string) (dir int, name string) {
	rel, ok := strings.CutPrefix(path, d.root+"/")
	if !ok {
		return 0, ""
	}
	names := strings.Split(rel, "/")
	dir = 1
	for _, name := range names[:len(names)-1] {
		if dir = d.nodes[dir].live[name]; dir == 0 || !d.nodes[dir].dir {
			return 0, ""
		}
	}
	return dir, names[len(names)-1]
}

// follow does what a call did, as far as it is about our files.
func (d *disk) follow(c *call) error {
	switch c.name {
	case "open", "openat", "creat":
		return d.open(c)
	case "mkdir", "mkdirat", "mknod", "mknodat":
		return d.make(c)
	case "unlink", "unlinkat", "rmdir":
		dir, name := d.parent(c.path(0))
		if dir != 0 {
			d.rename(c, dir, naming{name, 0})
		}
		return nil
	case "rename", "renameat", "renameat2":
		return d.move(c)
	}
	n := d.find(c.args[0])
	if c.args[0] == d.marksPath && c.name == "write" {
		d.marks = append(d.marks, strings.Split(strings.TrimSpace(c.args[1]), "\n")...)
		return nil
	}
	if n == 0 {
		return nil
	}
	key := fmt.Sprint(c.fds[0], c.args[0])
	switch c.name {
	case "lseek":
		d.pos[key] = c.result
	case "write":
		at := d.pos[key]
		if d.appends[n] {
			at = d.nodes[n].size
		}
		d.pos[key] = at + c.result
		d.write(c, n, at)
	case "pwrite64":
		d.write(c, n, number(c.args[3]))
	case "ftruncate":
		size := number(c.args[1])
		d.resize(c, n, size, size < d.nodes[n].size)
	case "fallocate":
		if c.args[1] == "FALLOC_FL_KEEP_SIZE" {
			return nil
		}
		if c.args[1] != "0" {
			return fmt.Errorf("not understood")
		}
		if size := number(c.args[2]) + number(c.args[3]); size > d.nodes[n].size {
			d.resize(c, n, size, false)
		}
	default:
		return fmt.Errorf("not understood")
	}
	return nil
}

// path is the i-th path of a call, from its directory's descriptor if it has one.
func (c *call) path(i int) string {
	if strings.HasSuffix(c.name, "at") || strings.HasSuffix(c.name, "at2") {
		path := c.args[2*i+1]
		if !filepath.IsAbs(path) {
			path = filepath.Join(c.args[2*i], path)
		}
		return filepath.Clean(path)
	}
	return filepath.Clean(c.args[i])
}

func number(s string) int64 {
	var n int64
	fmt.Sscan(s, &n)
	return n
}

func (d *disk) open(c *call) error {
	last := len(c.args) - 1
	path, fd := c.args[last], c.fds[last]
	dir, name := d.parent(path)
	if dir == 0 {
		return nil
	}
	flags := strings.Join(c.args[:last], "|")
	n := d.nodes[dir].live[name]
	switch {
	case n == 0 && strings.Contains(flags, "O_CREAT"):
		n = d.add(&node{})
		d.rename(c, dir, naming{name, n})
	case n == 0:
		return fmt.Errorf("it is not there, as far as we know")
	case strings.Contains(flags, "O_TRUNC") && d.nodes[n].size > 0:
		d.resize(c, n, 0, true)
	}
	d.pos[fmt.Sprint(fd, path)] = 0
	if strings.Contains(flags, "O_APPEND") {
		d.appends[n] = true
	}
	return nil
}

func (d *disk) make(c *call) error {
	dir, name := d.parent(c.path(0))
	if dir == 0 {
		return nil
	}
	n := d.add(&node{dir: strings.HasPrefix(c.name, "mkdir"), fifo: strings.HasPrefix(c.name, "mknod")})
	d.rename(c, dir, naming{name, n})
	return nil
}

func (d *disk) move(c *call) error {
	from, to := c.path(0), c.path(1)
	dir, name := d.parent(from)
	toDir, toName := d.parent(to)
	if dir != toDir {
		return fmt.Errorf("from one directory to another: not understood")
	}
	if dir == 0 {
		return nil
	}
	live := d.nodes[dir].live
	if live[name] == 0 {
		return fmt.Errorf("it is not there, as far as we know")
	}
	left := naming{name, 0}
	if strings.Contains(strings.Join(c.args, " "), "RENAME_EXCHANGE") {
		left.node = live[toName]
	}
	d.rename(c, dir, naming{toName, live[name]}, left)
	return nil
}

func (d *disk) rename(c *call, dir int, names ...naming) {
	for _, n := range names {
		if n.node == 0 {
			delete(d.nodes[dir].live, n.name)
		} else {
			d.nodes[dir].live[n.name] = n.node
		}
	}
	d.pend(c, change{node: dir, size: -1, names: names, text: fmt.Sprint(c.name, " ", names)})
}

func (d *disk) write(c *call, n int, at int64) {
	data := []byte(c.args[1])[:c.result]
	size := max(d.nodes[n].size, at+int64(len(data)))
	p := change{node: n, off: at, data: data, size: -1, text: fmt.Sprintf("%s of %d bytes at %d", c.name, len(data), at)}
	if size > d.nodes[n].size {
		p.size = size
	}
	d.nodes[n].size = size
	d.pend(c, p)
}

func (d *disk) resize(c *call, n int, size int64, cut bool) {
	if size == d.nodes[n].size {
		return
	}
	d.nodes[n].size = size
	d.pend(c, change{node: n, size: size, cut: cut, text: fmt.Sprintf("%s to %d", c.name, size)})
}

func (d *disk) pend(c *call, p change) {
	p.ended = c.end
	d.pending = append(d.pending, p)
}
