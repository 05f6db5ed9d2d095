package slave

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of one agent. Labels are bounded: causes and kinds, never ids.
type metrics struct {
	updates       prometheus.Counter
	redelivered   prometheus.Counter
	acksIgnored   prometheus.Counter
	logBytes      prometheus.Counter
	sessions      prometheus.Counter
	secondDials   prometheus.Counter
	refused       *prometheus.CounterVec
	ended         *prometheus.CounterVec
	wentBack      prometheus.Counter
	gaps          prometheus.Counter
	evicted       prometheus.Counter
	setAside      prometheus.Counter
	commitSeconds prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, a *Agent) (*metrics, error) {
	const ns, sub = "holdfast", "slave"
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help})
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help}, []string{label})
	}
	gauge := func(name, help string, fn func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help}, fn)
	}
	m := &metrics{
		updates:     counter("updates_total", "Status updates made durable in the journal."),
		redelivered: counter("redelivered_updates_total", "Status updates sent again because their ACK had not come."),
		acksIgnored: counter("acks_ignored_total", "ACKs and Wants ignored because they named another epoch or attempt, or went beyond what was sent."),
		logBytes:    counter("log_bytes_total", "Log bytes sent, before compression."),
		sessions:    counter("sessions_total", "Sessions opened, that is Welcomes received."),
		secondDials: counter("second_dials_total", "Dials made because un-ACKed data had stalled."),
		refused:     vec("attempts_refused_total", "Assignments refused, by cause.", "cause"),
		ended:       vec("attempts_ended_total", "Attempts ended, by cause; the cause of success is empty.", "cause"),
		wentBack:    counter("went_back_total", "Times the store was found to have updates the journal lacks."),
		gaps:        counter("gaps_total", "Times the store was found to lack updates it had ACKed."),
		setAside:    counter("journals_set_aside_total", "Damaged journals set aside at the start."),
		evicted:     counter("refused_files_removed_total", "Files removed from refused/ because it was full."),
		commitSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: ns, Subsystem: sub, Name: "journal_commit_seconds",
			Help:    "Duration of the journal's transactions, two fdatasyncs each.",
			Buckets: prometheus.ExponentialBuckets(100e-6, 2.5, 12),
		}),
	}
	if reg == nil {
		return m, nil
	}
	all := []prometheus.Collector{
		m.updates, m.redelivered, m.acksIgnored, m.logBytes, m.sessions, m.secondDials,
		m.refused, m.ended, m.wentBack, m.gaps, m.evicted, m.setAside, m.commitSeconds,
		gauge("journal_updates", "Status updates in the journal that no master has ACKed: its depth.", func() float64 { return a.depth() }),
		gauge("oldest_unacked_seconds", "Age of the oldest status update that no master has ACKed.", func() float64 { return a.oldest().Seconds() }),
		gauge("attempts", "Attempts held, ended ones that are not forgotten included.", func() float64 { return float64(len(a.held())) }),
		gauge("slots_busy", "Slots occupied.", func() float64 { return float64(a.busySlots()) }),
		gauge("connected", "1 while a session is open.", func() float64 {
			if _, cut := a.cutSince(); cut {
				return 0
			}
			return 1
		}),
	}
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// depth is the number of un-ACKed updates.
func (a *Agent) depth() float64 {
	var n uint64
	for _, t := range a.held() {
		updates, _ := t.backlog()
		n += updates
	}
	return float64(n)
}

// oldest is the age of the oldest un-ACKed update.
func (a *Agent) oldest() time.Duration {
	a.mu.Lock()
	j := a.journal
	a.mu.Unlock()
	if j == nil {
		return 0
	}
	if at := j.Stats().Oldest; !at.IsZero() {
		return max(0, time.Since(at))
	}
	return 0
}
