package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"
)

// Mark says when, and on which stream, the bytes from Offset on were read from
// the step, up to the next mark.
type Mark struct {
	Offset int64
	At     time.Time
	Stream Stream
}

// Chunk is consecutive raw bytes of a log.
type Chunk struct {
	Offset int64
	Data   []byte // valid until the next call of Next
	Marks  []Mark // the first one is at Offset or before it
}

// Reader reads a log while it is being written. It belongs to one goroutine.
type Reader struct {
	dir  string
	next int64 // raw offset to be returned next

	file *os.File
	base int64  // of the open segment
	buf  []byte // as read from the file, from its offset at
	at   int64
	read int   // bytes of buf that are consumed
	pos  int64 // raw offset of the record at buf[read]
	skip int   // data bytes of that record already returned
	out  []byte
}

// NewReader returns a reader that starts at raw offset from. ErrTrimmed: the
// log no longer holds that offset.
func NewReader(dir string, from int64) (*Reader, error) {
	list, err := whatIsLeft(dir)
	if err != nil {
		return nil, fmt.Errorf("read spool: %w", err)
	}
	if from < 0 || (len(list) > 0 && from < list[0].base) {
		return nil, fmt.Errorf("read spool at %d: %w", from, ErrTrimmed)
	}
	return &Reader{dir: dir, next: from}, nil
}

// Close closes the open segment.
func (r *Reader) Close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}

// Next returns up to limit raw bytes, at least 1; it does not split what fits.
// io.EOF: all complete records have been returned, a live writer may add more.
// ErrTorn: the next bytes are incomplete or damaged; a live writer may be about
// to complete them, else they are lost: see Skip. ErrTrimmed: they
// were ACKed and deleted after this reader had begun. All may be asked again.
func (r *Reader) Next(limit int) (Chunk, error) {
	c := Chunk{Offset: r.next, Data: r.out[:0]}
	var err error
	for len(c.Data) < max(limit, 1) && err == nil {
		err = r.add(&c, max(limit, 1))
	}
	r.out = c.Data
	if len(c.Data) > 0 {
		return c, nil // what stopped us shows at the next call
	}
	return Chunk{}, err
}

// add appends one record, or the part of it that fits.
func (r *Reader) add(c *Chunk, limit int) error {
	if r.file == nil {
		if err := r.open(); err != nil {
			return err
		}
	}
	rec, size, err := decodeRecord(r.buf[r.read:], r.pos)
	if err != nil {
		if rec, size, err = r.refill(); err != nil {
			return r.roll(err)
		}
	}
	data := rec.data
	if end := rec.offset + int64(len(data)); end <= r.next { // before the start we were given
		r.consume(size, len(data))
		return nil
	}
	if r.next > rec.offset && r.skip == 0 {
		r.skip = int(r.next - rec.offset)
	}
	data = data[r.skip:]
	take := min(len(data), limit-len(c.Data))
	if len(c.Data) > 0 && take < len(data) && len(data) <= limit {
		take = 0 // fits whole into the next chunk
	}
	if take == 0 {
		return errChunkFull
	}
	if n := len(c.Marks); n == 0 || c.Marks[n-1].Stream != rec.stream || rec.at.Sub(c.Marks[n-1].At) >= markEvery {
		c.Marks = append(c.Marks, Mark{Offset: r.next, At: rec.at, Stream: rec.stream})
	}
	c.Data = append(c.Data, data[:take]...)
	r.next += int64(take)
	if r.skip += take; r.skip == len(rec.data) {
		r.consume(size, len(rec.data))
	}
	return nil
}

// markEvery is the resolution of time marks within a stream.
const markEvery = time.Millisecond

// errChunkFull ends a chunk; it never leaves Next, whose chunk has data then.
var errChunkFull = errors.New("chunk is full")

// consume passes over one record.
func (r *Reader) consume(size, data int) {
	r.read += size
	r.pos += int64(data)
	r.skip = 0
}

// open opens the segment that holds next.
func (r *Reader) open() error {
	return steady(r.dir, func(list []segment) error {
		if len(list) == 0 {
			return io.EOF
		}
		if r.next < list[0].base {
			return fmt.Errorf("read spool at %d: %w", r.next, ErrTrimmed)
		}
		i := holder(list, r.next)
		return r.openSegment(list[i], i+1 == len(list))
	})
}

// holder is the index of the segment that holds offset, or that would.
func holder(list []segment, offset int64) int {
	at := 0
	for at+1 < len(list) && list[at+1].base <= offset {
		at++
	}
	return at
}

// openSegment opens s; newest says that it is the last one.
func (r *Reader) openSegment(s segment, newest bool) error {
	f, err := open(s.path)
	if err != nil {
		return fmt.Errorf("read spool: %w", err)
	}
	head := make([]byte, headerSize)
	n, err := io.ReadFull(f, head)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		f.Close()
		if n == 0 && newest {
			return io.EOF // its header is being written
		}
		return fmt.Errorf("segment header at offset %d: %w", s.base, ErrTorn)
	}
	if isBadSector(err) {
		f.Close()
		return fmt.Errorf("segment header at offset %d: %w (%w)", s.base, ErrTorn, err)
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("read spool: %w", err)
	}
	h, err := decodeHeader(head)
	if err != nil {
		f.Close()
		return err
	}
	if h.base != s.base {
		f.Close()
		return fmt.Errorf("segment %s starts at %d: %w", s.path, h.base, ErrTorn)
	}
	r.take(f, s, headerSize, h.base)
	return nil
}

// take makes f the open segment; the record at file offset at is next, and
// begins at raw offset pos.
func (r *Reader) take(f *os.File, s segment, at, pos int64) {
	if r.file != nil {
		r.file.Close()
	}
	r.file, r.base, r.pos = f, s.base, pos
	r.buf, r.at, r.read, r.skip = r.buf[:0], at, 0, 0
}

// refill reads the record at pos again, and more. What was read of it before
// may have been taken back and written anew, by a writer whose disk was full.
func (r *Reader) refill() (record, int, error) {
	r.at += int64(r.read)
	r.read = 0
	if r.buf == nil {
		r.buf = make([]byte, 0, 2*(MaxRecord+recordHeader))
	}
	n, err := r.file.ReadAt(r.buf[:cap(r.buf)], r.at)
	r.buf = r.buf[:n]
	if err != nil && !errors.Is(err, io.EOF) && !isBadSector(err) { // what came before a bad sector counts
		r.buf = r.buf[:0]
		return record{}, 0, fmt.Errorf("read spool: %w", err)
	}
	return decodeRecord(r.buf, r.pos)
}

// roll goes on to the segment behind the open one, which holds no whole record
// any more, as cause says. io.EOF: there is none, and nothing is left over here.
func (r *Reader) roll(cause error) error {
	if !errors.Is(cause, ErrTorn) {
		return cause
	}
	list, err := whatIsLeft(r.dir)
	if err != nil {
		return fmt.Errorf("read spool: %w", err)
	}
	next := slices.IndexFunc(list, func(s segment) bool { return s.base > r.base })
	if next < 0 {
		if len(r.buf) == 0 {
			return io.EOF
		}
		return cause
	}
	// The open segment is complete, however it ends. Records may have been
	// added between our last read and the creation of the next: they go first.
	if _, _, err := r.refill(); err == nil || !errors.Is(err, ErrTorn) {
		return err
	}
	switch s := list[next]; {
	case s.base == r.pos:
		err := r.openSegment(s, next+1 == len(list)) // after an error the old one stays open: asked again
		if errors.Is(err, fs.ErrNotExist) {
			return nil // trimmed this instant: look again
		}
		return err
	case next == 0 && s.base > r.pos:
		return fmt.Errorf("read spool at %d: %w", r.pos, ErrTrimmed)
	default:
		return fmt.Errorf("offset %d: the next segment starts at %d: %w", r.pos, s.base, ErrTorn)
	}
}

// Skip passes over damaged bytes, after ErrTorn, to the next record that can be
// read, or to the next segment (P-log-state). It returns the offset at which
// Next goes on; the bytes before it are lost. The same offset as before: a live
// writer has completed the record meanwhile, nothing is lost. io.EOF: nothing
// follows; only then a live writer may still complete what is torn, for it
// writes behind nothing but a whole record.
func (r *Reader) Skip() (int64, error) {
	err := steady(r.dir, func(list []segment) error {
		if len(list) == 0 {
			return io.EOF
		}
		if r.next < list[0].base {
			return fmt.Errorf("read spool at %d: %w", r.next, ErrTrimmed)
		}
		i := holder(list, r.next)
		f, at, offset, err := r.find(list[i])
		switch {
		case err != nil:
			return err
		case f != nil:
			r.take(f, list[i], at, offset)
			r.next = max(r.next, offset)
			return nil
		case i+1 == len(list):
			return io.EOF
		}
		// This segment is complete, and nothing more of it can be read.
		r.next = list[i+1].base
		return r.Close() // the next one is opened by name
	})
	return r.next, err
}

// find looks for the next whole record of the segment that ends behind next,
// and returns the segment's file with the place of the record in it; no file:
// there is none.
func (r *Reader) find(s segment) (f *os.File, at, offset int64, err error) {
	f, err = open(s.path)
	if errors.Is(err, ErrTorn) {
		return nil, 0, 0, nil
	}
	if err != nil {
		return nil, 0, 0, fmt.Errorf("read spool: %w", err)
	}
	start, pos := int64(0), s.base
	if r.file != nil && r.base == s.base { // all before has been read
		start, pos = r.at+int64(r.read), r.pos
	}
	// What was torn when its first bytes were read may have been taken back and
	// written anew before its last ones were, by a writer whose disk was full. It
	// cannot have been since a record stands behind it: so the second look counts.
	for look := 1; ; look++ {
		data, err := io.ReadAll(io.NewSectionReader(f, start, maxFile))
		if err != nil && !isBadSector(err) {
			f.Close()
			return nil, 0, 0, fmt.Errorf("read spool: %w", err)
		}
		found, offset, ok := findRecord(data, pos, r.next)
		if !ok {
			return nil, 0, 0, f.Close()
		}
		if offset <= r.next || look == 2 {
			return f, start + int64(found), offset, nil
		}
	}
}
