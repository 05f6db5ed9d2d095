package journal

import (
	"sync/atomic"
	"time"
)

// Stats is what to show of a journal, as of the last durable transaction; counters are since Open.
type Stats struct {
	Streams   int
	Entries   int       // held, all streams: the journal's depth
	LiveBytes int64     // stored bytes of entries and puts
	Oldest    time.Time // wall clock of the oldest held entry, for the age of what is not acknowledged; zero = none

	FileBytes      int64 // allocated
	FloorBytes     int64 // the least it is compacted to
	AvailableBytes int64 // room in the file for new pages, the reserve included
	ReserveBytes   int64 // what Config asked for
	ReserveWhole   bool  // AvailableBytes ≥ ReserveBytes
	GarbagePieces  int   // acknowledged or dropped, not yet removed
	Full           bool  // a record was refused for want of room, and none was taken since, nor room found by Room

	Commits       int64
	CommitTime    time.Duration // sum; two fdatasyncs each
	MaxCommitTime time.Duration
	Compactions   int64
	// Tried in vain, for want of room as a rule; the old file stays in use.
	CompactionsFailed int64
}

// counts are written by the writer and read by anybody.
type counts struct {
	commits, commitTime, maxCommit atomic.Int64
	compactions, notCompacted      atomic.Int64
	file, available, garbage       atomic.Int64
	full                           atomic.Bool
}

// Stats never fails and never blocks for long; after Run it returns the last figures.
func (j *Journal) Stats() Stats {
	j.mu.RLock()
	defer j.mu.RUnlock()
	s := Stats{
		Streams: len(j.streams), Entries: j.liveEntries, LiveBytes: j.liveBytes,
		FileBytes: j.counts.file.Load(), FloorBytes: floorBytes(j.cfg.Reserve),
		AvailableBytes: j.counts.available.Load(), ReserveBytes: j.cfg.Reserve,
		GarbagePieces: int(j.counts.garbage.Load()), Full: j.counts.full.Load(),
		Commits: j.counts.commits.Load(), CommitTime: time.Duration(j.counts.commitTime.Load()),
		MaxCommitTime: time.Duration(j.counts.maxCommit.Load()), Compactions: j.counts.compactions.Load(),
		CompactionsFailed: j.counts.notCompacted.Load(),
	}
	s.ReserveWhole = s.AvailableBytes >= s.ReserveBytes
	for _, st := range j.streams {
		if len(st.held) == 0 {
			continue
		}
		if at := time.UnixMicro(st.held[0].at); s.Oldest.IsZero() || at.Before(s.Oldest) {
			s.Oldest = at
		}
	}
	return s
}

// committed publishes the figures of one transaction.
func (j *Journal) committed(took time.Duration, p *plan, appends int) {
	j.counts.commits.Add(1)
	j.counts.commitTime.Add(int64(took))
	j.counts.maxCommit.Store(max(j.counts.maxCommit.Load(), int64(took)))
	j.publishSpace()
	if j.cfg.OnCommit == nil {
		return
	}
	c := Commit{Duration: took, Appends: appends, Entries: p.entries}
	for _, s := range p.streams {
		if s == nil {
			continue
		}
		for _, a := range s.adds {
			c.Bytes += a.size
		}
	}
	j.cfg.OnCommit(c)
}

func (j *Journal) publishSpace() {
	j.counts.file.Store(j.space.allocated)
	j.counts.available.Store(j.space.available())
	j.counts.garbage.Store(int64(len(j.garbage)))
}
