package peers

import "github.com/prometheus/client_golang/prometheus"

// Why sessions are ended, as the label "cause" has it.
const (
	causeStall  = "stall"  // this master cannot commit
	causeOver   = "over"   // another master had declared this one over
	causeSpread = "spread" // another master has fewer slaves
)

// metrics of one Peers.
type metrics struct {
	serving prometheus.Gauge
	shed    *prometheus.CounterVec
	ended   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	const ns, sub = "holdfast", "master"
	m := &metrics{
		serving: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "peers",
			Help: "Other masters of the store that serve, as far as this one knows."}),
		shed: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "sessions_shed_total",
			Help: "Sessions that this master has ended so that their slaves go to another one, by cause: stall, over, spread."}, []string{"cause"}),
		ended: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "peers_ended_total",
			Help: "Other masters that this one has declared over."}),
	}
	for _, cause := range []string{causeStall, causeOver, causeSpread} {
		m.shed.WithLabelValues(cause)
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.serving, m.shed, m.ended} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
