package lifecycle

import "time"

// LogProgress notes that log bytes of a step were committed: the store has
// advanced the step's LogMark and LogCRC.
func (r *Record) LogProgress(now time.Time, id AttemptID, step StepID) {
	a := r.Attempt(id)
	if a == nil {
		return
	}
	s := a.Step(step)
	if s == nil {
		return
	}
	r.touchStep(s)
	switch {
	case s.LogBytes >= 0:
		if s.LogMark >= s.LogBytes {
			r.logMoved(r.at(now), a, s)
		}
	case s.LogState == LogComplete:
		r.setLog(s, LogDraining) // skipped, and yet it has a log: nobody has said how much of it
	}
}

// LogGap notes that log bytes from offset from up to to are gone for good; the
// store has put, or will put, the step's LogMark behind them. Torn: the
// slave's machine lost them.
func (r *Record) LogGap(now time.Time, id AttemptID, step StepID, from, to int64, torn bool, reason string) {
	a := r.Attempt(id)
	if a == nil {
		return
	}
	s := a.Step(step)
	if s == nil {
		return
	}
	r.missing(r.at(now), a, s, from, to, torn, slaveSays(a), reason)
}

// missing records missing log bytes; to is negative if nobody knows how many. The first kind of damage names the state.
func (r *Record) missing(t time.Time, a *Attempt, s *Step, from, to int64, torn bool, who, why string) {
	topic, state := TopicLogGap, LogGap
	if torn {
		topic, state = TopicLogTorn, LogTorn
	}
	if s.LogState == LogOpen || s.LogState == LogDraining {
		r.setLog(s, state)
	}
	r.touchStep(s)
	d := data{"from": from}
	if to >= 0 {
		d["to"] = to
	}
	r.tellStep(t, a, s, topic, who, why, d)
}

// tornByReboot marks the log of a step that ended with its machine: what it
// wrote last may never have reached the disk, and no CRC can tell (P-log-state).
func (r *Record) tornByReboot(t time.Time, a *Attempt, s *Step) {
	if s.LogState == LogGap || s.LogState == LogTorn {
		return
	}
	r.setLog(s, LogTorn)
	r.tellStep(t, a, s, TopicLogTorn, slaveSays(a), "the machine was restarted; the last bytes may be lost", data{"from": s.LogBytes})
}

// logMoved judges the log of a step whose end is known: complete once size and
// CRC are what the slave reported.
func (r *Record) logMoved(t time.Time, a *Attempt, s *Step) {
	if s.LogState == LogGap || s.LogState == LogTorn {
		return // a CRC over missing bytes says nothing
	}
	switch {
	case s.LogMark < s.LogBytes:
		r.setLog(s, LogDraining)
	case s.LogMark == s.LogBytes && s.LogCRC == s.LogFinalCRC:
		if s.LogState == LogComplete {
			return
		}
		r.setLog(s, LogComplete)
		r.tellStep(t, a, s, TopicLogComplete, master, "", data{"log_bytes": s.LogBytes})
	default:
		r.setLog(s, LogGap)
		r.tellStep(t, a, s, TopicLogMismatch, master, "stored log differs from what the slave reported", data{
			"stored_bytes": s.LogMark, "stored_crc": s.LogCRC,
			"slave_bytes": s.LogBytes, "slave_crc": s.LogFinalCRC,
		})
	}
}

// drained reports whether no log bytes are known to be still on the slave.
func (a *Attempt) drained() bool {
	for i := range a.Steps {
		if s := &a.Steps[i]; s.LogBytes >= 0 && s.LogMark < s.LogBytes {
			return false
		}
	}
	return true
}

// settleLogs gives up the log bytes of an attempt that its slave no longer
// holds.
func (r *Record) settleLogs(t time.Time, a *Attempt) {
	for i := range a.Steps {
		switch s := &a.Steps[i]; {
		case s.LogState != LogOpen && s.LogState != LogDraining:
		case s.LogBytes >= 0:
			r.missing(t, a, s, s.LogMark, s.LogBytes, false, master, "the slave no longer holds the rest")
		default:
			r.missing(t, a, s, s.LogMark, -1, true, master, "the slave lost the rest")
		}
	}
}
