package control

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-proxy/sluice/pool"
)

// metricsLimit is how long a scrape may take.
const metricsLimit = 5 * time.Second

// Collector tells Prometheus what Status and the lists tell people. It keeps no
// numbers of its own: what a scrape says is what was true at that moment.
type Collector struct {
	ops         *Operations
	build       *prometheus.Desc
	pool        *prometheus.Desc
	member      *prometheus.Desc
	cooldown    *prometheus.Desc
	target      *prometheus.Desc
	connections *prometheus.Desc
	flows       *prometheus.Desc
	counters    *prometheus.Desc
}

var _ prometheus.Collector = (*Collector)(nil)

// NewCollector makes a collector, to be registered once.
func NewCollector(ops *Operations) *Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("sluice_"+name, help, labels, nil)
	}
	return &Collector{
		ops:         ops,
		build:       desc("build_info", "1, with what is running as labels.", "version", "commit", "go"),
		pool:        desc("pool_state", "1 for the state that the pool is in, 0 for the others.", "pool", "state"),
		member:      desc("member_state", "1 for the state that the member is in, 0 for the others.", "pool", "member", "state"),
		cooldown:    desc("member_cooldown_seconds", "How long the member is still out.", "pool", "member"),
		target:      desc("target_connections", "Open connections of a target.", "target", "cgroup", "state"),
		connections: desc("connections", "Open connections of all targets."),
		flows:       desc("flows", "Redirected connections that have not been accepted yet."),
		counters:    desc("events_total", "What happened to connections, by cause.", "cause"),
	}
}

// Describe implements [prometheus.Collector].
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.build, c.pool, c.member, c.cooldown, c.target, c.connections, c.flows, c.counters,
	} {
		out <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), metricsLimit)
	defer cancel()
	status, err := c.ops.Status(ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(c.connections, err)
		return
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	gauge(c.build, 1, status.Build.Version, status.Build.Commit, status.Build.Go)
	gauge(c.connections, float64(status.Connections))
	gauge(c.flows, float64(status.Flows))
	for cause, n := range status.Counters {
		out <- prometheus.MustNewConstMetric(c.counters, prometheus.CounterValue, float64(n), cause)
	}
	for _, t := range c.ops.o.Targets.Targets() {
		gauge(c.target, float64(t.Connections), t.ID, t.Cgroup, string(t.State))
	}
	pools, err := c.ops.ListPools(ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(c.pool, err)
		return
	}
	for _, p := range pools {
		c.collectPool(gauge, p)
	}
}

func (c *Collector) collectPool(gauge func(*prometheus.Desc, float64, ...string), p pool.PoolStatus) {
	for _, state := range []pool.State{pool.StateHealthy, pool.StateDegraded, pool.StateExhausted} {
		gauge(c.pool, one(p.State == state), p.Name, string(state))
	}
	for _, m := range p.Members {
		for _, state := range []pool.MemberState{pool.MemberActive, pool.MemberStandby, pool.MemberCooldown, pool.MemberParked} {
			gauge(c.member, one(m.State == state), p.Name, m.Name, string(state))
		}
		gauge(c.cooldown, max(0, m.Until.Sub(c.ops.o.Now()).Seconds()), p.Name, m.Name)
	}
}

func one(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
