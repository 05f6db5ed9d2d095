package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"syscall"
)

// The page format of bbolt (magic 0xED0CDAED, version 2), as far as a reader needs it. Integers are in the
// machine's order, little-endian wherever we run.
//
//	page    | id u64 | flags u16 | count u16 | overflow u32 | elements … | their keys and values, packed, in order
//	meta    | magic u32 | version u32 | page size u32 | 0 u32 | root u64 | seq u64 | freelist u64 | high water u64 | txid u64 | fnv-1a u64
//	branch  | pos u32 | key size u32 | page u64                    pos counts from the element itself
//	leaf    | flags u32 | pos u32 | key size u32 | value size u32   flags 1: the value is a bucket | root u64 | seq u64 | inline page if root = 0
//
// Why a reader of our own: bbolt reads through a memory map and trusts what it finds. This one reads with
// ReadAt, checks each page before it follows it, and visits none twice: on any input it ends, in bounded time, with an
// error instead of a fault. Once it is content, bbolt's own check cannot fault or loop either. It is stricter than that
// check: both meta pages must be valid and one transaction apart (bbolt would fall back to the older one and forget the
// last transaction without a word), and elements must be packed (a page whose count has lost a bit would lose records without a word).
const (
	pageHeaderLen = 16
	elementLen    = 16
	metaLen       = 64
	bucketHeadLen = 16

	boltMagic   = 0xED0CDAED
	boltVersion = 2

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagMeta     = 0x04
	flagFreelist = 0x10

	noFreelist = ^uint64(0)
	maxDepth   = 48
)

type metaPage struct {
	pageSize  uint32
	root      uint64
	freelist  uint64
	highWater uint64 // first page never used
	txid      uint64
}

func decodeMeta(page []byte, slot uint64) (metaPage, error) {
	if id := binary.LittleEndian.Uint64(page); id != slot {
		return metaPage{}, fmt.Errorf("meta page %d has id %d", slot, id)
	}
	if flags := binary.LittleEndian.Uint16(page[8:]); flags != flagMeta {
		return metaPage{}, fmt.Errorf("meta page %d has flags %#x", slot, flags)
	}
	b := page[pageHeaderLen:]
	if m, v := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:]); m != boltMagic || v != boltVersion {
		return metaPage{}, fmt.Errorf("meta page %d has magic %#x version %d", slot, m, v)
	}
	h := fnv.New64a()
	h.Write(b[:metaLen-8])
	if got, stored := h.Sum64(), binary.LittleEndian.Uint64(b[metaLen-8:]); got != stored {
		return metaPage{}, fmt.Errorf("meta page %d has checksum %016x, stored %016x", slot, got, stored)
	}
	m := metaPage{
		pageSize:  binary.LittleEndian.Uint32(b[8:]),
		root:      binary.LittleEndian.Uint64(b[16:]),
		freelist:  binary.LittleEndian.Uint64(b[32:]),
		highWater: binary.LittleEndian.Uint64(b[40:]),
		txid:      binary.LittleEndian.Uint64(b[48:]),
	}
	return m, nil
}

// pageReader walks one bbolt file.
type pageReader struct {
	ctx   context.Context
	r     io.ReaderAt
	meta  metaPage
	seen  []bool // by page: reachable or free
	visit func(bucket string, key, value []byte) error
}

// errStopWalk is what a visitor returns when it has what it wants.
var errStopWalk = errors.New("stop")

// walkPages calls visit for every key and value of every top-level bucket, in key order, and checks the
// structure on its way. Key and value are valid during the call only. An error of visit ends the walk.
// All errors of the structure are CorruptErrors; ctx ending and read errors are returned as they are.
func walkPages(ctx context.Context, r io.ReaderAt, size int64, visit func(bucket string, key, value []byte) error) error {
	meta, err := readMeta(r, size)
	if err != nil {
		return err
	}
	p := &pageReader{ctx: ctx, r: r, meta: meta, seen: make([]bool, meta.highWater), visit: visit}
	p.seen[0], p.seen[1] = true, true
	if meta.freelist != noFreelist {
		if err := p.freelist(meta.freelist); err != nil {
			return err
		}
	}
	err = p.page(meta.root, "", nil, nil, 0)
	if errors.Is(err, errStopWalk) {
		return nil
	}
	return err
}

// readMeta returns the newer of the two meta pages; both must be valid.
func readMeta(r io.ReaderAt, size int64) (metaPage, error) {
	head := make([]byte, pageHeaderLen+metaLen)
	if _, err := r.ReadAt(head, 0); err != nil {
		return metaPage{}, readError("meta page 0", err)
	}
	m0, err := decodeMeta(head, 0)
	if err != nil {
		return metaPage{}, &CorruptError{Where: "meta", Err: err}
	}
	if ps := m0.pageSize; ps < 1024 || ps > 1<<20 || ps&(ps-1) != 0 {
		return metaPage{}, corruptf("meta", "page size %d", ps)
	}
	if _, err := r.ReadAt(head, int64(m0.pageSize)); err != nil {
		return metaPage{}, readError("meta page 1", err)
	}
	m1, err := decodeMeta(head, 1)
	if err != nil {
		return metaPage{}, &CorruptError{Where: "meta", Err: err}
	}
	newer, older := m0, m1
	if m1.txid > m0.txid {
		newer, older = m1, m0
	}
	if newer.txid-older.txid != 1 || newer.pageSize != older.pageSize {
		return metaPage{}, corruptf("meta", "transactions %d and %d", newer.txid, older.txid)
	}
	if newer.highWater < 3 || newer.highWater > uint64(size)/uint64(newer.pageSize) {
		return metaPage{}, corruptf("meta", "file of %d bytes, %d pages of %d in use", size, newer.highWater, newer.pageSize)
	}
	return newer, nil
}

// readError makes a short file or an unreadable sector damage and leaves other errors alone.
func readError(where string, err error) error {
	if errors.Is(err, syscall.EIO) {
		return &CorruptError{Where: where, Err: err}
	}
	if errors.Is(err, io.EOF) {
		return &CorruptError{Where: where, Err: io.ErrUnexpectedEOF}
	}
	return fmt.Errorf("read %s: %w", where, err)
}

// load reads a page with its overflow and marks it seen.
func (p *pageReader) load(id uint64) ([]byte, error) {
	where := fmt.Sprintf("page %d", id)
	if err := context.Cause(p.ctx); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	if id < 2 || id >= p.meta.highWater {
		return nil, corruptf(where, "outside the %d pages in use", p.meta.highWater)
	}
	size := int64(p.meta.pageSize)
	b := make([]byte, size)
	if _, err := p.r.ReadAt(b, int64(id)*size); err != nil {
		return nil, readError(where, err)
	}
	if got := binary.LittleEndian.Uint64(b); got != id {
		return nil, corruptf(where, "has id %d", got)
	}
	more := uint64(binary.LittleEndian.Uint32(b[12:]))
	if id+more >= p.meta.highWater {
		return nil, corruptf(where, "%d overflow pages pass the end", more)
	}
	for i := id; i <= id+more; i++ {
		if p.seen[i] {
			return nil, corruptf(where, "page %d is used twice", i)
		}
		p.seen[i] = true
	}
	if more == 0 {
		return b, nil
	}
	b = append(b, make([]byte, int64(more)*size)...)
	if _, err := p.r.ReadAt(b[size:], int64(id+1)*size); err != nil {
		return nil, readError(where, err)
	}
	return b, nil
}

func (p *pageReader) page(id uint64, bucket string, minKey, maxKey []byte, depth int) error {
	b, err := p.load(id)
	if err != nil {
		return err
	}
	if depth > maxDepth {
		return corruptf(fmt.Sprintf("page %d", id), "more than %d levels", maxDepth)
	}
	switch binary.LittleEndian.Uint16(b[8:]) {
	case flagBranch:
		return p.branch(b, id, bucket, minKey, maxKey, depth)
	case flagLeaf:
		return p.leaf(b, fmt.Sprintf("page %d", id), bucket, minKey, maxKey, depth)
	}
	return corruptf(fmt.Sprintf("page %d", id), "flags %#x", binary.LittleEndian.Uint16(b[8:]))
}

func (p *pageReader) branch(b []byte, id uint64, bucket string, minKey, maxKey []byte, depth int) error {
	where := fmt.Sprintf("page %d", id)
	n := int(binary.LittleEndian.Uint16(b[10:]))
	data := pageHeaderLen + n*elementLen
	if n == 0 || data > len(b) {
		return corruptf(where, "branch with %d elements", n)
	}
	keys, children := make([][]byte, n), make([]uint64, n)
	for i := range n {
		at := pageHeaderLen + i*elementLen
		pos, size := int(binary.LittleEndian.Uint32(b[at:])), int(binary.LittleEndian.Uint32(b[at+4:]))
		if at+pos != data || size > len(b)-data {
			return corruptf(where, "branch element %d is not packed", i)
		}
		keys[i], children[i] = b[data:data+size], binary.LittleEndian.Uint64(b[at+8:])
		data += size
	}
	for i := range n {
		if err := checkOrder(where, i, keys, minKey, maxKey); err != nil {
			return err
		}
		next := maxKey
		if i+1 < n {
			next = keys[i+1]
		}
		if err := p.page(children[i], bucket, keys[i], next, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (p *pageReader) leaf(b []byte, where, bucket string, minKey, maxKey []byte, depth int) error {
	n := int(binary.LittleEndian.Uint16(b[10:]))
	data := pageHeaderLen + n*elementLen
	if data > len(b) {
		return corruptf(where, "leaf with %d elements", n)
	}
	keys := make([][]byte, n)
	for i := range n {
		at := pageHeaderLen + i*elementLen
		flags, pos := binary.LittleEndian.Uint32(b[at:]), int(binary.LittleEndian.Uint32(b[at+4:]))
		ksize, vsize := int(binary.LittleEndian.Uint32(b[at+8:])), int(binary.LittleEndian.Uint32(b[at+12:]))
		if at+pos != data || ksize > len(b)-data || vsize > len(b)-data-ksize || flags > 1 {
			return corruptf(where, "leaf element %d is not packed", i)
		}
		key, value := b[data:data+ksize], b[data+ksize:data+ksize+vsize]
		keys[i] = key
		data += ksize + vsize
		if err := checkOrder(where, i, keys, minKey, maxKey); err != nil {
			return err
		}
		if (flags == 1) != (bucket == "") {
			return corruptf(where, "buckets nested or values at the root")
		}
		var err error
		if flags == 1 {
			err = p.bucket(value, string(key), depth)
		} else {
			err = p.visit(bucket, key, value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *pageReader) bucket(value []byte, name string, depth int) error {
	where := fmt.Sprintf("bucket %q", name)
	if len(value) < bucketHeadLen || name == "" {
		return corruptf(where, "header of %d bytes", len(value))
	}
	if root := binary.LittleEndian.Uint64(value); root != 0 {
		return p.page(root, name, nil, nil, depth+1)
	}
	inline := value[bucketHeadLen:]
	if len(inline) < pageHeaderLen || binary.LittleEndian.Uint16(inline[8:]) != flagLeaf {
		return corruptf(where, "inline page is no leaf")
	}
	return p.leaf(inline, where, name, nil, nil, depth+1)
}

// checkOrder: keys rise, from minKey on and below maxKey.
func checkOrder(where string, i int, keys [][]byte, minKey, maxKey []byte) error {
	if i == 0 && minKey != nil && bytes.Compare(keys[0], minKey) < 0 ||
		i > 0 && bytes.Compare(keys[i-1], keys[i]) >= 0 ||
		maxKey != nil && bytes.Compare(keys[i], maxKey) >= 0 {
		return corruptf(where, "key %d (%x) is out of order", i, keys[i])
	}
	return nil
}

// freelist marks the stored free pages, of files that have such a list (ours do not).
func (p *pageReader) freelist(id uint64) error {
	where := fmt.Sprintf("free list on page %d", id)
	b, err := p.load(id)
	if err != nil {
		return err
	}
	if flags := binary.LittleEndian.Uint16(b[8:]); flags != flagFreelist {
		return corruptf(where, "flags %#x", flags)
	}
	n, at := uint64(binary.LittleEndian.Uint16(b[10:])), uint64(pageHeaderLen)
	if n == 0xFFFF {
		n, at = binary.LittleEndian.Uint64(b[at:]), at+8
	}
	if n > (uint64(len(b))-at)/8 {
		return corruptf(where, "%d pages do not fit", n)
	}
	for i := range n {
		free := binary.LittleEndian.Uint64(b[at+8*i:])
		if free < 2 || free >= p.meta.highWater || p.seen[free] {
			return corruptf(where, "page %d is free and in use", free)
		}
		p.seen[free] = true
	}
	return nil
}
