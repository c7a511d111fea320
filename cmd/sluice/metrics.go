package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-proxy/sluice/pool"
)

// backlogLimit is how long the store may take to count what is not delivered.
const backlogLimit = 5 * time.Second

// traffic tells Prometheus what went through: it reads what the parts count anyway.
type traffic struct {
	pools   tallies
	kept    func() (replays uint64, bytes int64)
	backlog func(context.Context) (map[string]int64, error)

	requests, failovers, replays, held, waiting, behind *prometheus.Desc
}

// tallies are what members were answered, and the requests that wait for one;
// *pool.Keeper has them.
type tallies interface {
	Tallies() []pool.Tally
	Held() map[string]int
}

var _ prometheus.Collector = (*traffic)(nil)

// newTraffic makes a collector of members' answers, of the requests sent again and the
// bytes kept for that, and of the events that each reader is behind.
func newTraffic(pools tallies, kept func() (uint64, int64), backlog func(context.Context) (map[string]int64, error)) *traffic {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("sluice_"+name, help, labels, nil)
	}
	return &traffic{
		pools: pools, kept: kept, backlog: backlog,
		requests:  desc("requests_total", "Answers of upstreams, by the member that was asked and what the answer meant.", "pool", "member", "outcome"),
		failovers: desc("failovers_total", "Times that a pool went on to another member because this one was refused.", "pool", "member"),
		replays:   desc("replays_total", "Requests that were sent again with a further member."),
		held:      desc("replay_bytes", "Bytes of request bodies that are kept to be sent again."),
		waiting:   desc("held_requests", "Requests that wait for a member to come back, by pools that have any.", "pool"),
		behind:    desc("notice_backlog", "Events that a channel or the audit log has still to be given.", "reader"),
	}
}

// Describe implements [prometheus.Collector].
func (t *traffic) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{t.requests, t.failovers, t.replays, t.held, t.waiting, t.behind} {
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
	for name, n := range t.pools.Held() {
		metric(t.waiting, prometheus.GaugeValue, float64(n), name)
	}
	replays, bytes := t.kept()
	metric(t.replays, prometheus.CounterValue, float64(replays))
	metric(t.held, prometheus.GaugeValue, float64(bytes))

	ctx, cancel := context.WithTimeout(context.Background(), backlogLimit)
	defer cancel()
	backlog, err := t.backlog(ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(t.behind, err)
		return
	}
	for reader, n := range backlog {
		metric(t.behind, prometheus.GaugeValue, float64(n), reader)
	}
}
