package slave

import "time"

const (
	// minLogWindow is in flight even on the slowest link.
	minLogWindow = 64 << 10
	// maxLogWindow bounds memory on the fastest one.
	maxLogWindow = 8 << 20
	// queueTarget is how much of the link's time log bytes may occupy ahead of
	// a status update.
	queueTarget = 250 * time.Millisecond
	// maxLogChunk is the raw size of a chunk on a fast link, minLogChunk on
	// the slowest.
	maxLogChunk = 256 << 10
	minLogChunk = 8 << 10
)

// logWindow decides how many un-ACKed log bytes may be in flight: what the
// link carries in its shortest round trip, which does not queue, plus in
// queueTarget, which does; at least minLogWindow. It measures as BBR does: a
// sample is the bytes ACKed between the sending of a chunk and its ACK, by the
// time that took. Bytes are those on the wire, compressed.
//
// It is pure: the caller tells the time. The zero value is ready.
type logWindow struct {
	inFlight  int64
	delivered int64
	rate      float64 // bytes a second; 0: not measured yet
	minRTT    time.Duration
	limited   bool // the window, not the source, held the sender back
}

// flight is one chunk on its way.
type flight struct {
	wire      int64
	sentAt    time.Time
	delivered int64 // at sentAt
	limited   bool
}

// size is how many bytes may be in flight.
func (w *logWindow) size() int64 {
	bytes := w.rate * (queueTarget + w.minRTT).Seconds()
	return int64(min(max(bytes, minLogWindow), maxLogWindow))
}

// open reports whether another chunk may be sent, and notes if not.
func (w *logWindow) open() bool {
	if w.inFlight >= w.size() {
		w.limited = true
		return false
	}
	return true
}

// chunk is the raw size of the next chunk: small enough that several share the
// window, so that ACKs come steadily.
func (w *logWindow) chunk() int {
	return int(min(max(w.size()/4, minLogChunk), maxLogChunk))
}

// sent notes a chunk of wire bytes.
func (w *logWindow) sent(wire int, now time.Time) flight {
	w.inFlight += int64(wire)
	f := flight{wire: int64(wire), sentAt: now, delivered: w.delivered, limited: w.limited}
	w.limited = false
	return f
}

// acked notes that a chunk has been committed.
func (w *logWindow) acked(f flight, now time.Time) {
	w.inFlight -= f.wire
	w.delivered += f.wire
	rtt := now.Sub(f.sentAt)
	if rtt <= 0 {
		rtt = time.Microsecond // virtual time, or a coarse clock
	}
	if w.minRTT == 0 || rtt < w.minRTT {
		w.minRTT = rtt
	}
	sample := float64(w.delivered-f.delivered) / rtt.Seconds()
	switch {
	case sample > w.rate:
		w.rate = min(sample, max(2*w.rate, 8*minLogWindow)) // no single lucky sample opens it wide
	case f.limited:
		w.rate += (sample - w.rate) / 8
	}
}
