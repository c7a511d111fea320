package control

import (
	"log/slog"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// Options is what the operations act on. All but Log and Now are required.
type Options struct {
	Pools        Pools
	Members      Members
	Credentials  Credentials
	Events       Events
	Placeholders Placeholders
	Targets      Targets
	Resets       Resets
	// AuthResetTargets is what Resets goes by.
	AuthResetTargets AuthResetTargets
	Kernel           Kernel
	Authority        Authority
	Build            Build
	StateDir         string
	PinDir           string
	// Trust is asked about targets. Nil: nobody is.
	Trust Trust
	// Note adds an event to the log at some time soon, and never waits. Nil: not at all.
	Note func(pool.Event)
	Log  *slog.Logger     // nil discards
	Now  func() time.Time // nil is time.Now
}

// Build is what the running program was built from.
type Build struct {
	Version, Commit, Date, Go string
}

// Operations is what can be done. Its methods may be called concurrently. Their
// errors are *pool.Error where the caller can do something about it.
type Operations struct {
	o       Options
	started time.Time
	busy    claims
	looks   looks
}

// New makes the operations.
func New(o Options) *Operations {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Operations{o: o, started: o.Now()}
}
