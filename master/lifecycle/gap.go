package lifecycle

import "time"

// Gap notes that the updates from to to are gone for good (P-gap). A Snapshot
// follows.
func (r *Record) Gap(now time.Time, id AttemptID, from, to Seq, reason string) {
	if a := r.Attempt(id); a != nil {
		r.gap(r.at(now), a, from, to, reason)
	}
}

func (r *Record) gap(t time.Time, a *Attempt, from, to Seq, reason string) {
	r.tell(t, a, TopicAttemptGap, slaveSays(a), reason, data{"from": uint64(from), "to": uint64(to)})
}

// Back notes that the slave went back in time: it would number its next update
// next, which the store already has (P-back). A Snapshot follows.
func (r *Record) Back(now time.Time, id AttemptID, next Seq) {
	if a := r.Attempt(id); a != nil {
		r.tell(r.at(now), a, TopicAttemptBackInTime, slaveSays(a), "the slave's journal is older than the store",
			data{"next": uint64(next), "mark": uint64(a.Mark)})
	}
}
