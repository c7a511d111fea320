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
	through func() carried
	backlog func(context.Context) (map[string]int64, error)

	requests, failovers, replays, held, added, waiting, unsaved, behind *prometheus.Desc
}

// tallies are what members were answered, the requests that wait for one, and what the
// store has not taken yet; *pool.Keeper has them.
type tallies interface {
	Tallies() []pool.Tally
	Held() map[string]int
	Unsaved() int
}

var _ prometheus.Collector = (*traffic)(nil)

// carried is what the exchange has done.
type carried struct {
	replays uint64 // requests sent again
	bytes   int64  // kept for that
	// What it added to the time of an answer: number, sum in seconds, and how many
	// were below how many seconds.
	answers uint64
	sum     float64
	below   map[float64]uint64
}

// newTraffic makes a collector of members' answers, of what the exchange did with them,
// and of the events that each reader is behind.
func newTraffic(pools tallies, through func() carried, backlog func(context.Context) (map[string]int64, error)) *traffic {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("sluice_"+name, help, labels, nil)
	}
	return &traffic{
		pools: pools, through: through, backlog: backlog,
		requests:  desc("requests_total", "Answers of upstreams, by the member that was asked and what the answer meant.", "pool", "member", "outcome"),
		failovers: desc("failovers_total", "Times that a pool went on to another member because this one was refused.", "pool", "member"),
		replays:   desc("replays_total", "Requests that were sent again with a further member."),
		held:      desc("replay_bytes", "Bytes of request bodies that are kept to be sent again."),
		added:     desc("added_latency_seconds", "How much later an answer began than without sluice: the upstream's own time is not in it."),
		waiting:   desc("held_requests", "Requests that wait for a member to come back, by pools that have any.", "pool"),
		unsaved:   desc("unsaved_changes", "Changes of members' states that wait for the store to take them: more than 0 on a full disk."),
		behind:    desc("notice_backlog", "Events that a channel or the audit log has still to be given.", "reader"),
	}
}

// Describe implements [prometheus.Collector].
func (t *traffic) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{t.requests, t.failovers, t.replays, t.held, t.added, t.waiting, t.unsaved, t.behind} {
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
	metric(t.unsaved, prometheus.GaugeValue, float64(t.pools.Unsaved()))
	c := t.through()
	metric(t.replays, prometheus.CounterValue, float64(c.replays))
	metric(t.held, prometheus.GaugeValue, float64(c.bytes))
	out <- prometheus.MustNewConstHistogram(t.added, c.answers, c.sum, c.below)

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
