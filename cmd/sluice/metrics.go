package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-proxy/sluice/intercept/exchange"
	"github.com/sluice-proxy/sluice/monitor"
	"github.com/sluice-proxy/sluice/pool"
)

// backlogLimit is how long the store may take to count what is not delivered.
const backlogLimit = 5 * time.Second

// traffic tells Prometheus what went through: it reads what the parts count anyway.
type traffic struct {
	pools     *pool.Keeper
	exchanges *exchange.Exchanger
	watch     *monitor.Monitor

	requests, failovers, replays, held, backlog *prometheus.Desc
}

var _ prometheus.Collector = (*traffic)(nil)

func newTraffic(pools *pool.Keeper, exchanges *exchange.Exchanger, watch *monitor.Monitor) *traffic {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("sluice_"+name, help, labels, nil)
	}
	return &traffic{
		pools: pools, exchanges: exchanges, watch: watch,
		requests:  desc("requests_total", "Answers of upstreams, by the member that was asked and what the answer meant.", "pool", "member", "outcome"),
		failovers: desc("failovers_total", "Times that a pool went on to another member because this one was refused.", "pool", "member"),
		replays:   desc("replays_total", "Requests that were sent again with a further member."),
		held:      desc("replay_bytes", "Bytes of request bodies that are kept to be sent again."),
		backlog:   desc("notice_backlog", "Events that a channel or the audit log has still to be given.", "reader"),
	}
}

// Describe implements [prometheus.Collector].
func (t *traffic) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{t.requests, t.failovers, t.replays, t.held, t.backlog} {
		out <- d
	}
}

// Collect implements [prometheus.Collector].
func (t *traffic) Collect(out chan<- prometheus.Metric) {
	metric := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, kind, value, labels...)
	}
	for _, member := range t.pools.Tallies() {
		for outcome, n := range member.Answers {
			metric(t.requests, prometheus.CounterValue, float64(n), member.Pool, member.Member, outcome.String())
		}
		metric(t.failovers, prometheus.CounterValue, float64(member.Failovers), member.Pool, member.Member)
	}
	c := t.exchanges.Snapshot()
	metric(t.replays, prometheus.CounterValue, float64(c.Replays))
	metric(t.held, prometheus.GaugeValue, float64(c.ReplayBytes))

	ctx, cancel := context.WithTimeout(context.Background(), backlogLimit)
	defer cancel()
	backlog, err := t.watch.Backlog(ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(t.backlog, err)
		return
	}
	for reader, n := range backlog {
		metric(t.backlog, prometheus.GaugeValue, float64(n), reader)
	}
}
