package api

import "github.com/prometheus/client_golang/prometheus"

// metrics of one Server.
type metrics struct {
	followers *prometheus.GaugeVec
	refused   *prometheus.CounterVec
	logBytes  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	const ns, sub = "holdfast", "api"
	m := &metrics{
		followers: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "streams_open",
			Help: "Streams of logs and events that are open now, by kind."}, []string{"kind"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "refused_total",
			Help: "Writes that were refused, by reason."}, []string{"reason"}),
		logBytes: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "log_bytes_total",
			Help: "Raw log bytes sent to readers."}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.followers, m.refused, m.logBytes} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// following counts a stream until the returned func is called.
func (m *metrics) following(kind string) (over func()) {
	g := m.followers.WithLabelValues(kind)
	g.Inc()
	return g.Dec
}
