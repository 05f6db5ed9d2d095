package spool

import (
	"errors"
	"fmt"
	"io"
	"os"
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
	base int64
	pos  int64 // raw offset of buf[0]'s record
	buf  []byte
	read int // bytes of buf that are consumed
	skip int // data bytes of the record at buf[read] already returned
	out  []byte
}

// NewReader returns a reader that starts at raw offset from. ErrTrimmed: the
// log no longer holds that offset.
func NewReader(dir string, from int64) (*Reader, error) {
	list, err := segments(dir)
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

// Next returns up to max raw bytes; it does not split what fits. io.EOF: all
// complete records have been returned, a live writer may add more. ErrTorn:
// the next bytes are incomplete or damaged; a live writer may be about to
// complete them, after its end they are lost. Both may be asked again.
func (r *Reader) Next(limit int) (Chunk, error) {
	c := Chunk{Offset: r.next, Data: r.out[:0]}
	var err error
	for len(c.Data) < limit && err == nil {
		err = r.add(&c, limit)
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
		grown, fillErr := r.fill()
		if fillErr != nil {
			return fillErr
		}
		if grown {
			return nil
		}
		// Nothing more in this file. A segment behind it means that this one is
		// complete, however it ends.
		rolled, rollErr := r.roll()
		if rollErr != nil || rolled {
			return rollErr
		}
		if r.read == len(r.buf) {
			return io.EOF
		}
		return err
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
	list, err := segments(r.dir)
	if err != nil {
		return fmt.Errorf("read spool: %w", err)
	}
	if len(list) == 0 {
		return io.EOF
	}
	if r.next < list[0].base {
		return fmt.Errorf("read spool at %d: %w", r.next, ErrTrimmed)
	}
	at := list[0]
	for _, s := range list[1:] {
		if s.base <= r.next {
			at = s
		}
	}
	return r.openSegment(at)
}

func (r *Reader) openSegment(s segment) error {
	f, err := os.Open(s.path)
	if err != nil {
		return fmt.Errorf("read spool: %w", err)
	}
	head := make([]byte, headerSize)
	n, err := io.ReadFull(f, head)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		f.Close()
		if n == 0 {
			return io.EOF // its header is being written
		}
		return fmt.Errorf("segment header at offset %d: %w", s.base, ErrTorn)
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
	r.file, r.base, r.pos = f, h.base, h.base
	r.buf, r.read, r.skip = r.buf[:0], 0, 0
	return nil
}

// fill reads more of the open segment.
func (r *Reader) fill() (grown bool, err error) {
	if r.read > 0 {
		r.buf = r.buf[:copy(r.buf, r.buf[r.read:])]
		r.read = 0
	}
	const want = 2 * (MaxRecord + recordHeader)
	if cap(r.buf) < want {
		r.buf = append(make([]byte, 0, want), r.buf...)
	}
	if len(r.buf) == cap(r.buf) {
		return false, nil // a whole record fits: more bytes cannot help
	}
	n, err := r.file.Read(r.buf[len(r.buf):cap(r.buf)])
	r.buf = r.buf[:len(r.buf)+n]
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read spool: %w", err)
	}
	return n > 0, nil
}

// roll goes on to the segment behind the open one, if there is one. Bytes may
// have been added between our last read and its creation: they are read first.
func (r *Reader) roll() (bool, error) {
	list, err := segments(r.dir)
	if err != nil {
		return false, fmt.Errorf("read spool: %w", err)
	}
	for _, s := range list {
		if s.base <= r.base {
			continue
		}
		if grown, err := r.fill(); err != nil || grown {
			return grown, err
		}
		if s.base != r.pos {
			return false, fmt.Errorf("offset %d: the next segment starts at %d: %w", r.pos, s.base, ErrTorn)
		}
		old := r.file
		if err := r.openSegment(s); err != nil {
			return false, err // the old one stays open: asked again
		}
		old.Close()
		return true, nil
	}
	return false, nil
}
