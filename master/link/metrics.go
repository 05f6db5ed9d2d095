package link

import (
	"github.com/prometheus/client_golang/prometheus"

	"holdfast/proto/rpcerr"
)

// metrics of one Server. Labels are bounded: reasons and lanes, never ids.
type metrics struct {
	open       prometheus.Gauge
	sessions   prometheus.Counter
	turnedAway *prometheus.CounterVec
	refused    *prometheus.CounterVec
	updates    prometheus.Counter
	logBytes   prometheus.Counter
	duplicates *prometheus.CounterVec
	acks       prometheus.Counter
	wants      prometheus.Counter
	inFlight   prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "holdfast", Subsystem: "link", Name: name, Help: help}
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts(opts(name, help)))
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts(opts(name, help)), []string{label})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts(opts(name, help)))
	}
	m := &metrics{
		open:       gauge("sessions_open", "Sessions of slaves that are open now."),
		sessions:   counter("sessions_total", "Sessions that were admitted, that is Welcomes sent."),
		turnedAway: vec("sessions_refused_total", "Slaves that were refused at Hello, by reason.", "reason"),
		refused:    vec("frames_refused_total", "Sessions that ended because of a frame, by reason.", "reason"),
		updates:    counter("updates_total", "Status updates received, duplicates included."),
		logBytes:   counter("log_bytes_total", "Raw log bytes received, duplicates included."),
		duplicates: vec("duplicates_total", "Frames received that were committed already, by lane; they had no effect.", "lane"),
		acks:       counter("acks_total", "ACKs sent; one may carry the marks of many frames."),
		wants:      counter("wants_total", "Wants sent, those within Welcome included."),
		inFlight:   gauge("in_flight_bytes", "Bytes received from slaves that wait for a commit."),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{
		m.open, m.sessions, m.turnedAway, m.refused, m.updates, m.logBytes, m.duplicates, m.acks, m.wants, m.inFlight,
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// countRefusal counts the end of an open session if a frame was to blame.
func (m *metrics) countRefusal(err error) {
	if rpcerr.Is(err, rpcerr.BadFrame, rpcerr.TooLarge, rpcerr.Diverged, rpcerr.Fenced) {
		refused, _ := rpcerr.From(err)
		m.refused.WithLabelValues(string(refused.Reason)).Inc()
	}
}

// countTurnedAway counts a slave that was not admitted.
func (m *metrics) countTurnedAway(err error) {
	reason := "broken_stream"
	if refused, ok := rpcerr.From(err); ok {
		reason = string(refused.Reason)
	}
	m.turnedAway.WithLabelValues(reason).Inc()
}
