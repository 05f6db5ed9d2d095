package sqlite

import "os"

// pinnedEvery is how many commits pass between two looks at the log's size.
const pinnedEvery = 64

// pinned notices a write-ahead log that cannot be emptied: a foreign reader that
// stays in one transaction pins it, and it grows with each commit. Guarded by
// Store.mu.
type pinned struct {
	commits int
	told    int64 // size when people were last told
}

// look looks at the log now and then, and tells people when it is larger than
// limit, once each time it has doubled.
func (p *pinned) look(s *Store) {
	if p.commits++; p.commits%pinnedEvery != 0 {
		return
	}
	info, err := os.Stat(s.cfg.Path + "-wal")
	if err != nil || info.Size() < s.cfg.PinnedBytes || info.Size() < 2*p.told {
		return
	}
	p.told = info.Size()
	s.cfg.Logger.Warn("the store's log cannot be emptied: some process reads the store in one long transaction; `holdfast doctor --data DIR` names it",
		"log_bytes", info.Size(), "path", s.cfg.Path+"-wal")
}
