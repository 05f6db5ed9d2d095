package schedule

import "github.com/prometheus/client_golang/prometheus"

// dispatchMetrics of one Dispatcher.
type dispatchMetrics struct {
	queue     prometheus.Gauge
	rounds    prometheus.Counter
	seconds   prometheus.Histogram
	assigned  prometheus.Counter
	overtaken prometheus.Counter
}

func newDispatchMetrics(reg prometheus.Registerer) (*dispatchMetrics, error) {
	m := &dispatchMetrics{
		queue:     gauge("queued_builds", "Queued builds the last round of dispatch looked at: those that a slave with a free slot matches."),
		rounds:    counter("rounds_total", "Rounds of dispatch."),
		assigned:  counter("assigned_total", "Attempts assigned to slaves."),
		overtaken: counter("overtaken_total", "Assignments that the store refused because something had changed meanwhile."),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "holdfast", Subsystem: "schedule", Name: "round_seconds",
			Help:    "Duration of a round of dispatch, commit included.",
			Buckets: prometheus.ExponentialBuckets(1e-3, 3, 9),
		}),
	}
	return m, register(reg, m.queue, m.rounds, m.seconds, m.assigned, m.overtaken)
}

// watchMetrics of one Watch.
type watchMetrics struct {
	watched  prometheus.Gauge
	restarts prometheus.Counter
	verdicts prometheus.Counter
	brake    prometheus.Gauge
}

func newWatchMetrics(reg prometheus.Registerer) (*watchMetrics, error) {
	m := &watchMetrics{
		watched:  gauge("watched_attempts", "Live attempts whose slaves are away and that may be given up."),
		restarts: counter("watch_restarts_total", "Times the lost watch started over: a tick came late, or the store did not answer."),
		verdicts: counter("given_up_total", "Attempts given up, or withdrawn, because their slave stayed away."),
		brake:    gauge("brake", "1 while most busy slaves are silent at once, so that nobody is given up (or a person has released that), else 0."),
	}
	return m, register(reg, m.watched, m.restarts, m.verdicts, m.brake)
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "holdfast", Subsystem: "schedule", Name: name, Help: help})
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "holdfast", Subsystem: "schedule", Name: name, Help: help})
}

// register does nothing without a registerer.
func register(reg prometheus.Registerer, all ...prometheus.Collector) error {
	if reg == nil {
		return nil
	}
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			return err
		}
	}
	return nil
}
