package reset

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// MaxOutput is how much of a command's output is kept, both streams together, in bytes.
const MaxOutput = 64 << 10

// Runtime reaches into the agents of one kind. An agent is named by a reference that
// the runtime understands: a container's name or id, or a cgroup's path. Its methods
// may be called concurrently. Errors wrap one of [ErrNotFound], [ErrNotRunning],
// [ErrNoCommand] and [ErrUnavailable] where one is true.
type Runtime interface {
	// Environment is what the agent's process was given, as NAME=value, so far as it
	// is a user's to know.
	Environment(ctx context.Context, agent string, uid uint32) ([]string, error)
	// ReadFile reads a file as data, without running anything of the agent's. The path
	// is the agent's, links in it included. The error wraps fs.ErrNotExist if there is
	// no such file, and it is an error if it has more than limit bytes.
	ReadFile(ctx context.Context, agent, path string, limit int64) ([]byte, error)
	// Exec runs a command beside the agent. An exit status other than 0 is no error.
	// When the time is up, or ctx ends, everything that the command started is killed.
	Exec(ctx context.Context, agent string, c Command) (Result, error)
}

var (
	// ErrNotFound means that no agent has that name.
	ErrNotFound = errors.New("not found")
	// ErrNotRunning means that the agent is there and does not run.
	ErrNotRunning = errors.New("not running")
	// ErrNoCommand means that the program is not there, or cannot be executed.
	ErrNoCommand = errors.New("command not found")
	// ErrUnavailable means that what runs the agents does not answer: later it may.
	ErrUnavailable = errors.New("unavailable")
)

// As gives an error one of these meanings without changing what it says.
func As(meaning, err error) error { return meant{err, meaning} }

type meant struct {
	error
	meaning error
}

func (m meant) Unwrap() []error { return []error{m.error, m.meaning} }

// Command is what is to be run: an argument vector, never a shell's text. It gets no
// capabilities and cannot gain any.
type Command struct {
	Argv     []string
	UID, GID uint32
	// Environment is all of it, as NAME=value.
	Environment []string
	Timeout     time.Duration
}

// Result is how a command ended.
type Result struct {
	ExitCode int
	// Output is the beginning of what it wrote, at most [MaxOutput].
	Output []byte
	// TimedOut says that it was killed because its time was up.
	TimedOut bool
	Took     time.Duration
}

// Output keeps the first [MaxOutput] bytes that are written to it and lets the rest
// go: a command never waits for it. The zero value is empty.
type Output struct {
	mu   sync.Mutex
	kept []byte
}

// Write never fails.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.kept = append(o.kept, p[:min(len(p), MaxOutput-len(o.kept))]...)
	return len(p), nil
}

// Bytes is a copy of what was kept.
func (o *Output) Bytes() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.kept)
}

// Kind tells the ways apart in which an agent is reached.
type Kind string

const (
	// InContainer is an agent in a container, reached by its runtime.
	InContainer Kind = "container"
	// InCgroup is an agent on the host, reached by its cgroup.
	InCgroup Kind = "cgroup"
)

// Agent is where a pool's agent runs.
type Agent struct {
	Kind Kind
	// Ref is the container's name or id, or the cgroup's path.
	Ref string
	// Name is what people call it. Default: Ref.
	Name string
}

// Called is what people call the agent's place.
func (a Agent) Called() string {
	if a.Name != "" {
		return a.Name
	}
	return a.Ref
}

func (a Agent) String() string { return fmt.Sprintf("%s %s", a.Kind, a.Called()) }
