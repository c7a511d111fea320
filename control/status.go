package control

import (
	"context"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// Kernel tells what the BPF programs did.
type Kernel interface {
	// Adopted says whether the hooks of an earlier daemon were taken over.
	Adopted() bool
	// Counters are counts by cause.
	Counters() (map[string]uint64, error)
	// FlowCount is how many redirected connections wait to be accepted.
	FlowCount() (int, error)
}

// Authority signs for bound hosts; *ca.Authority is one.
type Authority interface {
	// Confide has what is attached trust it for what has been bound since the last time.
	Confide()
	// Bundle is what an agent has to trust, as PEM.
	Bundle() []byte
}

// Status is what the daemon is doing.
type Status struct {
	Build       Build
	StartedAt   time.Time
	Uptime      time.Duration
	StateDir    string
	PinDir      string
	Adopted     bool
	Pools       map[pool.State]int
	Targets     int
	Connections int
	Flows       int
	Counters    map[string]uint64
}

// Status counts what there is.
func (o *Operations) Status(ctx context.Context) (Status, error) {
	pools, err := o.ListPools(ctx)
	if err != nil {
		return Status{}, err
	}
	s := Status{
		Build: o.o.Build, StartedAt: o.started.UTC(), Uptime: o.o.Now().Sub(o.started),
		StateDir: o.o.StateDir, PinDir: o.o.PinDir, Adopted: o.o.Kernel.Adopted(), Pools: make(map[pool.State]int),
		Targets: len(o.o.Targets.Targets()), Connections: o.o.Targets.Connections(),
	}
	for _, p := range pools {
		s.Pools[p.State]++
	}
	if s.Flows, err = o.o.Kernel.FlowCount(); err != nil {
		return Status{}, err
	}
	s.Counters, err = o.o.Kernel.Counters()
	return s, err
}

// CA is what an agent has to trust, as PEM.
func (o *Operations) CA() []byte { return o.o.Authority.Bundle() }
