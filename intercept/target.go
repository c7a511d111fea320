package intercept

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"sync/atomic"
	"time"
)

var (
	// ErrNotFound says that there is no such target.
	ErrNotFound = errors.New("no such target")
	// ErrConflict says that another target is in the way: the cgroup is attached already
	// for other pools, or one above or below it is.
	ErrConflict = errors.New("another target is in the way")
	// ErrStopped says that the interceptor does not run any more.
	ErrStopped = errors.New("the interceptor has stopped")
)

// Kind is how a target was named when it was attached.
type Kind string

const (
	// KindCgroup is a cgroup given by its path.
	KindCgroup Kind = "cgroup"
	// KindPID is the cgroup of a process.
	KindPID Kind = "pid"
	// KindRun is a cgroup that `sluice run` made for one command: the target ends with it.
	KindRun Kind = "run"
)

// State is what has become of a target.
type State string

const (
	// StateAttached: the programs are on the cgroup.
	StateAttached State = "attached"
	// StateWaiting: there is no such cgroup now; it is attached when it comes (back).
	StateWaiting State = "waiting"
	// StateFailed: the cgroup could not be attached; Reason says why.
	StateFailed State = "failed"
)

// Target is an attached cgroup. It is a plain value; ID, Kind, Ref, Cgroup, CgroupID,
// Pools and Created are what Memory keeps.
type Target struct {
	ID       string    `json:"id"` // derived from the cgroup's path: the same after a restart
	Kind     Kind      `json:"kind"`
	Ref      string    `json:"ref"`       // as the person gave it: a path or a process id
	Cgroup   string    `json:"cgroup"`    // absolute path
	CgroupID uint64    `json:"cgroup_id"` // of the cgroup last attached there
	Pools    []string  `json:"pools"`     // empty: any pool
	Created  time.Time `json:"created"`

	State       State    `json:"state"`
	Reason      string   `json:"reason,omitempty"` // why it waits or failed
	Connections int      `json:"connections"`      // open now
	Namespaces  []uint64 `json:"namespaces"`       // cookies of the namespaces its processes are in
	Destroyed   int      `json:"destroyed"`        // connections older than the attach that it closed
}

// Memory keeps targets over a restart. It is called by one goroutine at a time.
type Memory interface {
	// Save adds a target or replaces the one of the same ID.
	Save(ctx context.Context, t Target) error
	// Delete forgets a target. It is no error when there is none.
	Delete(ctx context.Context, id string) error
	// List returns all targets saved, in any order.
	List(ctx context.Context) ([]Target, error)
}

// target is the live side of a Target.
type target struct {
	Target // State, Reason and CgroupID change under Interceptor.mu
	pid    int

	life context.Context // ends when the target is detached
	end  context.CancelFunc
	cut  context.CancelFunc // closes its connections
	conn context.Context    // its connections' context
	open atomic.Int64       // connections
}

// targetID is short, printable and the same for the same path. taken tells ids in use.
func targetID(path string, taken func(id string) bool) string {
	sum := sha256.Sum256([]byte(path))
	digits := hex.EncodeToString(sum[:])
	n := 8
	for n < len(digits) && taken(digits[:n]) {
		n++
	}
	return digits[:n]
}

// samePools compares without regard to order.
func samePools(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}
