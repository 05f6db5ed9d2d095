package power

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// sizeOf and nameOf stand for what is no sector of a change.
const (
	sizeOf = -1
	nameOf = -2
)

// recipe says which parts of the pending changes are on the disk: of the i-th
// one a sector of its file, its size (sizeOf) or its names (nameOf).
type recipe struct {
	name string
	keep func(i int, part int64) bool
}

// volume is one node as a recipe has it.
type volume struct {
	changes []change // of this node
	index   []int    // what number each has for the recipe
	keep    func(i int, part int64) bool

	data  []byte
	names map[string]int
}

// apply makes the node out of what is durable and what the recipe keeps. A
// sector, a size or a name that has missed one change misses all later ones,
// since these were made on top of it.
func (v *volume) apply(n *node, number int) {
	keep := func(c int, part int64) bool { return v.keep == nil || v.keep(v.index[c], part) }
	if n.dir {
		v.names = make(map[string]int, len(n.names))
		for name, to := range n.names {
			v.names[name] = to
		}
		missed := make(map[string]bool)
		for i, p := range v.changes {
			some := slices.ContainsFunc(p.names, func(n naming) bool { return missed[n.name] })
			ok := !some && keep(i, nameOf)
			for _, n := range p.names {
				switch {
				case !ok:
					missed[n.name] = true
				case n.node == 0:
					delete(v.names, n.name)
				default:
					v.names[n.name] = n.node
				}
			}
		}
		return
	}
	if len(v.changes) == 0 {
		v.data = n.data
		return
	}
	longest := int64(len(n.data))
	for _, p := range v.changes {
		longest = max(longest, p.size, p.off+int64(len(p.data)))
	}
	data, size := make([]byte, longest), int64(len(n.data))
	copy(data, n.data)
	missed, missedFrom, missedSize := make(map[int64]bool), longest, false
	for i, p := range v.changes {
		for at := p.off; at < p.off+int64(len(p.data)); {
			sector := at / sectorSize
			end := min((sector+1)*sectorSize, p.off+int64(len(p.data)))
			if at < missedFrom && !missed[sector] && keep(i, sector) {
				copy(data[at:end], p.data[at-p.off:])
			} else {
				missed[sector] = true
			}
			at = end
		}
		switch {
		case p.size < 0:
		case missedSize || !keep(i, sizeOf):
			missedSize = true
			if p.cut {
				missedFrom = min(missedFrom, p.size) // later bytes went to new blocks
			}
		default:
			size = p.size
			if p.cut {
				clear(data[size:])
			}
		}
	}
	v.data = data[:size]
}

// file is one file of an image; a directory has no data.
type file struct {
	path      string
	dir, fifo bool
	data      []byte
}

// image lists what a recipe leaves, parents first.
func (d *disk) image(r recipe) []file {
	byNode := make(map[int]*volume)
	for i, p := range d.pending {
		v := byNode[p.node]
		if v == nil {
			v = &volume{keep: r.keep}
			byNode[p.node] = v
		}
		v.changes, v.index = append(v.changes, p), append(v.index, i)
	}
	var files []file
	var walk func(n int, path string)
	walk = func(n int, path string) {
		v := byNode[n]
		if v == nil {
			v = &volume{}
		}
		v.apply(d.nodes[n], n)
		files = append(files, file{path: path, dir: d.nodes[n].dir, fifo: d.nodes[n].fifo, data: v.data})
		var names []string
		for name := range v.names {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			walk(v.names[name], path+"/"+name)
		}
	}
	walk(1, "")
	return files
}

// recipes are the ways in which a cut with so many changes pending may end, at
// most limit of them.
func recipes(changes []change, limit int, random *rand.Rand) []recipe {
	n := len(changes)
	all := []recipe{
		{"none", func(int, int64) bool { return false }},
		{"all", func(int, int64) bool { return true }},
	}
	if n == 0 {
		return all[:1]
	}
	more := []recipe{
		{"sizes and names without data", func(_ int, part int64) bool { return part < 0 }},
		{"data without names", func(_ int, part int64) bool { return part != nameOf }},
		{"names without data and sizes", func(_ int, part int64) bool { return part == nameOf }},
		{"data and names without sizes", func(_ int, part int64) bool { return part != sizeOf }},
	}
	for k := range n {
		what := changes[k].text
		more = append(more,
			recipe{"without " + what, func(i int, _ int64) bool { return i != k }},
			recipe{"only " + what, func(i int, _ int64) bool { return i == k }})
		if k > 0 {
			more = append(more, recipe{"all before " + what, func(i int, _ int64) bool { return i < k }})
		}
		if sectors := changes[k].sectors(); sectors > 1 {
			middle := changes[k].off/sectorSize + random.Int64N(sectors-1) + 1
			more = append(more,
				recipe{"all before, and the front of " + what, func(i int, part int64) bool { return i < k || i == k && part < middle }},
				recipe{"all before, and the back of " + what, func(i int, part int64) bool { return i < k || i == k && (part < 0 || part >= middle) }})
		}
	}
	if n > 1 || changes[0].sectors() > 1 {
		for range 4 + n/2 {
			seed := random.Uint64()
			more = append(more,
				recipe{fmt.Sprintf("some, by %d", seed), func(i int, _ int64) bool { return coin(seed, i, 0) }},
				recipe{fmt.Sprintf("some sectors, by %d", seed), func(i int, part int64) bool { return coin(seed, i, part) }},
				recipe{fmt.Sprintf("some pages, by %d", seed), func(i int, part int64) bool {
					if part >= 0 {
						part /= 4096 / sectorSize
					}
					return coin(seed, i, part)
				}})
		}
	}
	random.Shuffle(len(more), func(i, j int) { more[i], more[j] = more[j], more[i] })
	return append(all, more[:min(len(more), max(0, limit-len(all)))]...)
}

func (p *change) sectors() int64 {
	if len(p.data) == 0 {
		return 0
	}
	return (p.off+int64(len(p.data))-1)/sectorSize - p.off/sectorSize + 1
}

// coin falls the same way for the same arguments.
func coin(seed uint64, i int, part int64) bool {
	return rand.New(rand.NewPCG(seed, uint64(i)<<32^uint64(part))).IntN(2) == 0
}
