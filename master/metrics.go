package master

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/retry"
)

// metrics of one master's commits and of what they decide; those of sessions
// and dispatch are in link and schedule. Labels are bounded: an unknown cause
// of a newer slave counts as unknown.
type metrics struct {
	groups   prometheus.Counter
	ops      prometheus.Counter
	bytes    *prometheus.CounterVec
	seconds  prometheus.Histogram
	failures *prometheus.CounterVec
	waiting  prometheus.Gauge
	events   prometheus.Counter
	lost     *prometheus.CounterVec
	ended    *prometheus.CounterVec

	mu      sync.Mutex
	since   time.Time     // of the present outage; zero: none; guarded by mu
	outages time.Duration // over; guarded by mu
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "holdfast", Subsystem: "master", Name: name, Help: help}
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts(opts(name, help)))
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts(opts(name, help)), labels)
	}
	m := &metrics{
		groups: counter("commit_groups_total", "Transactions committed; each holds the writes of all who waited."),
		ops:    counter("commit_ops_total", "Operations committed."),
		bytes:  vec("commit_bytes_total", "Bytes of updates and of log chunks, as stored, in committed operations.", "kind"),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "holdfast", Subsystem: "master", Name: "commit_seconds",
			Help:    "Duration of transactions that were committed, sync included.",
			Buckets: prometheus.ExponentialBuckets(100e-6, 2.5, 12),
		}),
		failures: vec("commit_failures_total", "Commits that failed, by class: held ones are tried again, poisoned ones are bisected.", "class"),
		waiting:  prometheus.NewGauge(prometheus.GaugeOpts(opts("commit_queue_ops", "Operations that wait for their commit: the depth of the queue."))),
		events:   counter("events_total", "Events of history committed."),
		lost:     vec("attempts_lost_total", "Attempts given up, by cause.", "cause"),
		ended:    vec("attempts_ended_total", "Attempts ended, by state and cause; the cause of success is empty.", "state", "cause"),
	}
	notReady := prometheus.NewCounterFunc(prometheus.CounterOpts(opts("not_ready_seconds_total", "Time during which the store could not commit.")), m.notReadySeconds)
	for _, c := range []prometheus.Collector{
		m.groups, m.ops, m.bytes, m.seconds, m.failures, m.waiting, m.events, m.lost, m.ended, notReady,
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// committed counts one Commit.
func (m *metrics) committed(ops []store.Op, took time.Duration, err error) {
	if err != nil {
		class := store.Classify(err)
		m.failures.WithLabelValues(classNames[class]).Inc()
		if class != store.Poisoned {
			m.setReady(false)
		}
		return
	}
	m.setReady(true)
	m.groups.Inc()
	m.ops.Add(float64(len(ops)))
	m.seconds.Observe(took.Seconds())
	for _, op := range ops {
		switch op := op.(type) {
		case *store.ApplyStatus:
			for _, raw := range op.Raw {
				m.bytes.WithLabelValues("status").Add(float64(len(raw)))
			}
		case *store.ApplyLog:
			m.bytes.WithLabelValues("log").Add(float64(len(op.Chunk.Data)))
		}
	}
}

var classNames = map[store.Class]string{store.Held: "held", store.Poisoned: "poisoned", store.Fatal: "fatal"}

// told counts what committed events say.
func (m *metrics) told(events []lifecycle.Event) {
	m.events.Add(float64(len(events)))
	for i := range events {
		e := &events[i]
		switch e.Topic {
		case lifecycle.TopicAttemptLost:
			m.lost.WithLabelValues(causeOf(e)).Inc()
			m.ended.WithLabelValues("lost", causeOf(e)).Inc()
		case lifecycle.TopicAttemptSucceeded:
			m.ended.WithLabelValues("succeeded", "").Inc()
		case lifecycle.TopicAttemptFailed:
			m.ended.WithLabelValues("failed", causeOf(e)).Inc()
		case lifecycle.TopicAttemptCancelled:
			m.ended.WithLabelValues("cancelled", causeOf(e)).Inc()
		case lifecycle.TopicAttemptRefused:
			m.ended.WithLabelValues("refused", causeOf(e)).Inc()
		case lifecycle.TopicAttemptWithdrawn:
			m.ended.WithLabelValues("withdrawn", causeOf(e)).Inc()
		}
	}
}

// causeOf reads the cause of an attempt's end.
func causeOf(e *lifecycle.Event) string {
	text, _ := e.Data["cause"].(string)
	if cause := retry.Cause(text); cause.Known() {
		return text
	}
	return string(retry.Unknown)
}

func (m *metrics) setReady(ready bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case ready && !m.since.IsZero():
		m.outages += time.Since(m.since)
		m.since = time.Time{}
	case !ready && m.since.IsZero():
		m.since = time.Now()
	}
}

func (m *metrics) notReadySeconds() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	total := m.outages
	if !m.since.IsZero() {
		total += time.Since(m.since)
	}
	return total.Seconds()
}
