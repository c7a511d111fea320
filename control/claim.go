package control

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"

	"github.com/sluice-proxy/sluice/pool"
)

// claims are the pools and credentials that are being changed. Who comes while
// another's change is under way is told so instead of being let in after it: two
// people who press "rotate" at once mean one rotation. The zero value is empty.
type claims struct {
	mu     sync.Mutex
	holder map[string]string // by name; pools and credentials have no name in common
}

// claim takes all the names, or none and says who has one of them.
func (c *claims) claim(by string, names ...string) (release func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range names {
		if other, taken := c.holder[name]; taken {
			return nil, &pool.Error{Code: pool.CodeConflict, Message: fmt.Sprintf(
				"%q is being changed by %s at this moment: look at what became of it, then try again", name, other)}
		}
	}
	if c.holder == nil {
		c.holder = make(map[string]string)
	}
	for _, name := range names {
		c.holder[name] = by
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, name := range names {
			delete(c.holder, name)
		}
	}, nil
}

// change does what somebody asked for, with the names to itself, and notes who it
// was: in the event that belongs to the change if it is made, in the daemon's log
// either way.
func (o *Operations) change(ctx context.Context, by Actor, what string, names []string, do func(context.Context) error) error {
	actor := by.String()
	release, err := o.busy.claim(actor, names...)
	if err == nil {
		defer release()
		if err = o.unchanged(ctx, by.Seen, names); err == nil {
			err = do(pool.WithActor(ctx, actor))
		}
	}
	if err != nil {
		o.o.Log.Log(ctx, severity(err), "not done: "+what, "names", names, "by", actor, "error", err)
		return err
	}
	o.o.Log.Info(what, "names", names, "by", actor)
	return nil
}

// severity is how loud the log is about a change that was not made. That there was nothing
// to change is said to who asked, and is nothing to anybody else: 'sluice run' detaches at
// its end what the daemon may have let go of already, having seen that the cgroup is empty.
func severity(err error) slog.Level {
	if isNotFound(err) {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// unchanged refuses what was asked for in view of a pool that is another by now.
// The pool is the first of the names.
func (o *Operations) unchanged(ctx context.Context, seen string, names []string) error {
	if seen == "" || len(names) == 0 {
		return nil
	}
	status, err := o.o.Pools.PoolStatus(ctx, names[0])
	if err != nil {
		return err
	}
	if Version(status) != seen {
		return &pool.Error{Code: pool.CodeConflict, Message: fmt.Sprintf(
			"pool %q has changed since it was looked at: look again, and decide by what it is now", names[0])}
	}
	return nil
}

// Version is another one for any other members, order, states, cooldowns and
// settings of a pool. It does not change with the time that passes.
func Version(p pool.PoolStatus) string {
	p.Agent = nil // follows from the name
	text, err := json.Marshal(p)
	if err != nil {
		// Strings, numbers and times of this century always have a JSON form.
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}
