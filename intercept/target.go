package intercept

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/intercept/exchange"
	"github.com/sluice-proxy/sluice/intercept/guard"
)

var (
	// ErrNotFound says that there is no such target.
	ErrNotFound = errors.New("no such target")
	// ErrConflict says that another target is in the way: the cgroup is attached already
	// for other pools, or one above or below it is.
	ErrConflict = errors.New("another target is in the way")
	// ErrExclusive says that somebody else's program keeps ours off a cgroup; the message says whose, and what to do.
	ErrExclusive = bpf.ErrExclusive
	// ErrUnsupported says that the kernel lacks something; the message says what, and which kernel has it.
	ErrUnsupported = bpf.ErrUnsupported
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
	// KindUnit is the cgroup of a unit of systemd's.
	KindUnit Kind = "unit"
	// KindContainer is a container's cgroup, a new one with each start.
	KindContainer Kind = "container"
	// KindSelector has no cgroup: each container with its label is a target of its own.
	KindSelector Kind = "selector"
	// KindRun is a cgroup that `sluice run` made for one command: the target ends with it.
	KindRun Kind = "run"
)

// State is what has become of a target.
type State string

const (
	// StateAttached: the programs are on the cgroup.
	StateAttached State = "attached"
	// StateNotInForce: the programs were put on the cgroup, and the kernel says now that they do not all run for
	// it: somebody else took some off, or the cgroup is another one. It is mended by itself; Reason says what is wrong.
	StateNotInForce State = "not_in_force"
	// StateWaiting: there is no such cgroup now; it is attached when it comes (back).
	StateWaiting State = "waiting"
	// StateWatching: a selector looks out for containers.
	StateWatching State = "watching"
	// StateFailed: the cgroup could not be attached; Reason says why.
	StateFailed State = "failed"
)

// notRunning is why a container's target waits.
const notRunning = "the container does not run"

// Target is an attached cgroup, or what is going to be one. It is a plain value; what comes before State is
// what Memory keeps.
type Target struct {
	ID       string `json:"id"` // derived from what it stands for: the same after a restart
	Kind     Kind   `json:"kind"`
	Ref      string `json:"ref"`       // as the person gave it: a path, a process id, a name
	Cgroup   string `json:"cgroup"`    // absolute path; empty: not known yet, or a selector
	CgroupID uint64 `json:"cgroup_id"` // of the cgroup last attached there

	Unit         string    `json:"unit,omitempty"`          // systemd's name
	Container    string    `json:"container,omitempty"`     // its name, as its runtime shows it
	ContainerID  string    `json:"container_id,omitempty"`  // of the one last seen
	Runtime      string    `json:"runtime,omitempty"`       // as container.Container has it
	Namespace    string    `json:"namespace,omitempty"`     // containerd's
	PodNamespace string    `json:"pod_namespace,omitempty"` // Kubernetes'
	Selector     string    `json:"selector,omitempty"`      // KEY=VALUE: a selector's, and its containers'
	Parent       string    `json:"parent,omitempty"`        // the selector's id
	Pools        []string  `json:"pools"`                   // empty: any pool
	Created      time.Time `json:"created"`
	// KeepConnections: connections older than an attach are not closed.
	KeepConnections bool `json:"keep_connections,omitempty"`

	State       State    `json:"state"`
	Reason      string   `json:"reason,omitempty"` // why it waits or failed, or what is not known of it
	Connections int      `json:"connections"`      // open now
	Namespaces  []uint64 `json:"namespaces"`       // cookies of the namespaces its processes are in
	Destroyed   int      `json:"destroyed"`        // connections older than the attach that it closed
	Kept        int      `json:"kept"`             // and those that it let be
	Older       []Older  `json:"older,omitempty"`  // the first hundred of both
	Guard       string   `json:"guard,omitempty"`  // by what packets are judged on its namespaces' links
	// Untrusting are its processes that do not trust our CA. Whoever asks the one who knows fills it in.
	Untrusting []Untrusting `json:"untrusting,omitempty"`
	// Unserved: no pool serves it. Likewise.
	Unserved bool `json:"unserved,omitempty"`

	// environ is what a container's command is given. It may hold what is nobody's business: it is neither shown nor kept.
	environ []string
}

// Environment is what a container's command is given, as NAME=value; nil if it is not known.
func (t Target) Environment() []string { return t.environ }

// Untrusting is a process that runs and does not trust our CA, as far as can be known from outside.
type Untrusting struct {
	PID     int    `json:"pid"`
	Process string `json:"process"` // the name of its program
	Reason  string `json:"reason"`  // goes on from the name: "has its roots built in"
	WayOut  string `json:"way_out"` // what a person can do
}

// String is a sentence about it.
func (u Untrusting) String() string {
	return fmt.Sprintf("%s (pid %d) %s: %s", u.Process, u.PID, u.Reason, u.WayOut)
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
	part   context.CancelFunc // ends the goroutine that follows the cgroup; under ops
	kept   []guard.Connection // under Interceptor.mu
	heir   *heir              // the container's next generation, which has started before this one's end; under ops

	life     context.Context // ends when the target is detached
	end      context.CancelFunc
	cut      context.CancelFunc // closes its connections
	conn     context.Context    // its connections' context
	open     atomic.Int64       // connections
	share    exchange.Share     // of what is kept to be sent again
	unmended string             // why it could not be put back in force, as the log has it; under ops
	crowded  bool               // it has as many namespaces as it may have; under ops
	unended  chan error         // of what has not ended in time, once it has; under ops
}

// identity is what makes two targets the same one.
func (t Target) identity() string {
	switch t.Kind {
	case KindContainer:
		return "container " + t.Namespace + " " + t.ContainerID
	case KindSelector:
		return "selector " + t.Namespace + " " + t.Selector
	}
	return t.Cgroup
}

// gone is why a target waits whose cgroup is not there.
func (t Target) gone() string {
	if t.Kind == KindContainer {
		return notRunning
	}
	return "the cgroup was removed"
}

// what is a target in a person's words.
func (t Target) what() string {
	switch t.Kind {
	case KindContainer:
		return "container " + t.Container
	case KindSelector:
		return "selector " + t.Selector
	case KindUnit:
		return "unit " + t.Unit
	}
	return "cgroup " + t.Cgroup
}

// targetID is short, printable and the same for the same identity. taken tells ids in use.
func targetID(identity string, taken func(id string) bool) string {
	sum := sha256.Sum256([]byte(identity))
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
