package control

import (
	"fmt"
	"log/slog"
	"time"
)

// Channel is a way in which people and programs reach the operations.
type Channel string

// ChannelREST is the REST API, which the command line uses as well.
const ChannelREST Channel = "rest"

// Actor is who asked for an operation. What changes something says so in the log.
type Actor struct {
	Channel Channel
	// PID, UID and GID are those of the process at the other end of the unix
	// socket, by the kernel's word; -1 where there is none.
	PID, UID, GID int
}

// String is the actor in a few words.
func (a Actor) String() string {
	if a.PID < 0 {
		return string(a.Channel)
	}
	return fmt.Sprintf("%s uid=%d pid=%d", a.Channel, a.UID, a.PID)
}

// Options is what the operations act on. All but Log and Now are required.
type Options struct {
	Pools        Pools
	Members      Members
	Credentials  Credentials
	Events       Events
	Placeholders Placeholders
	Targets      Targets
	Kernel       Kernel
	Authority    Authority
	Build        Build
	StateDir     string
	PinDir       string
	Log          *slog.Logger     // nil discards
	Now          func() time.Time // nil is time.Now
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

// did notes who changed what.
func (o *Operations) did(by Actor, what string, attributes ...any) {
	o.o.Log.Info(what, append(attributes, "by", by.String())...)
}
