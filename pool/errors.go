package pool

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Code says what kind of error an operation ended with. REST, the command line
// and every other channel translate this one list.
type Code uint8

const (
	// CodeInternal is a fault of sluice or its host; the message is for the log.
	CodeInternal Code = iota
	// CodeInvalid is input that can never be accepted; the message names the field.
	CodeInvalid
	// CodeNotFound is a name that stands for nothing.
	CodeNotFound
	// CodeConflict is a name that is taken, or something still referenced.
	CodeConflict
	// CodeUnavailable is something that cannot be done now but may be later.
	CodeUnavailable
	// CodeUnauthorized is somebody who has not shown that they may ask.
	CodeUnauthorized
	// CodeRateLimited is somebody who has tried too often.
	CodeRateLimited
)

// Error is an error with a message a person can act on.
type Error struct {
	Code    Code
	Message string
	missing missing
}

func (e *Error) Error() string { return e.Message }

func invalid(format string, args ...any) error {
	return &Error{Code: CodeInvalid, Message: fmt.Sprintf(format, args...)}
}

// NotFound says that something is not there: stores return it. For names of pools and
// credentials there are [NoPool], [NoCredential] and [NoMember].
func NotFound(format string, args ...any) error {
	return &Error{Code: CodeNotFound, Message: fmt.Sprintf(format, args...)}
}

// Conflict says that a name is taken or a thing is still referenced: stores return it.
func Conflict(format string, args ...any) error {
	return &Error{Code: CodeConflict, Message: fmt.Sprintf(format, args...)}
}

// Unavailable says that something cannot be done now but may be later: stores return it.
func Unavailable(format string, args ...any) error {
	return &Error{Code: CodeUnavailable, Message: fmt.Sprintf(format, args...)}
}

// ErrNoPool is returned by [Keeper.Acquire] for a route whose pool or binding is gone.
var ErrNoPool = errors.New("the pool that bound this host is gone")

// ExhaustedError is returned by [Keeper.Acquire] when every member is out.
type ExhaustedError struct {
	Pool       string
	Provider   string // preset's name, or ""
	Members    int
	Soonest    string    // the member that is back first; "" if every member is parked
	RecoversAt time.Time // zero if every member is parked
	Reason     string    // why the soonest is out: "rate limit (429): retry-after 120"
	// RetryAfter is what the agent is told: at least a second, whole seconds rounded
	// up, and no more than the longest wait an agent is ever told.
	RetryAfter time.Duration
	RetryAt    time.Time // when that is over
	// Tied is the field of the request that ties it to Soonest: that one is out, whether
	// or not the others are. "" if the whole pool is.
	Tied string
}

func (e *ExhaustedError) Error() string {
	if e.Tied != "" {
		return fmt.Sprintf("member %q of pool %q, to which %s ties the request, is out", e.Soonest, e.Pool, e.Tied)
	}
	if e.Members == 1 {
		return fmt.Sprintf("pool %q is exhausted: its only member is out", e.Pool)
	}
	return fmt.Sprintf("pool %q is exhausted: all %d members are out", e.Pool, e.Members)
}

// state sets what the agent is told of a wait, of which it is told no more than most, or a minute if
// that is less.
func (e *ExhaustedError) state(wait, most time.Duration, now time.Time) {
	e.RetryAfter = retryAfter(wait, max(time.Minute, most))
	e.RetryAt = now.Add(e.RetryAfter)
}

// retryAfter rounds a wait up to whole seconds within [1 s, most].
func retryAfter(wait, most time.Duration) time.Duration {
	s := time.Duration(math.Ceil(wait.Seconds())) * time.Second
	return max(time.Second, min(s, most))
}
