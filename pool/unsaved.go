package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"
)

const (
	// unsavedRetry is how often it is tried to write what the store refused.
	unsavedRetry = 2 * time.Second
	// maxUnsaved is how many changes wait at most as they were made; of more, only what
	// they come to does.
	maxUnsaved = 10_000
)

// unsaved is what the store refused: a full disk, or one that fails. Requests are
// served all the same, from memory, and what was learnt meanwhile is written as soon
// as the store takes it. Guarded by the keeper's lock.
type unsaved struct {
	changes   []Change           // oldest first
	folded    int                // how many more there were, whose events are lost
	cooldowns map[int64]Cooldown // what they come to: the read cache may forget it
	tried     time.Time          // monotonic: when the store refused last
	wake      chan struct{}      // of capacity 1
	stop      context.CancelFunc // of the goroutine that writes later
	done      chan struct{}      // closed when it has ended
}

func newUnsaved() *unsaved {
	return &unsaved{cooldowns: make(map[int64]Cooldown), wake: make(chan struct{}, 1), done: make(chan struct{})}
}

func (k *Keeper) startSaving() {
	var ctx context.Context
	ctx, k.unsaved.stop = context.WithCancel(context.Background())
	go k.saveLater(ctx)
}

// closeUnsaved tries a last time.
func (k *Keeper) closeUnsaved() {
	k.unsaved.stop()
	<-k.unsaved.done
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.save(context.Background()); err != nil {
		k.opts.Log.Error("what was learnt while the store refused it is lost", "changes", len(k.unsaved.changes), "error", err)
	}
}

// saveLater writes what the store refused once it takes it, until ctx ends.
func (k *Keeper) saveLater(ctx context.Context) {
	defer close(k.unsaved.done)
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.unsaved.wake:
		}
		for saved := false; !saved; {
			if !pause(ctx.Done(), unsavedRetry) {
				return
			}
			k.mu.Lock()
			saved = k.save(ctx) == nil
			k.mu.Unlock()
		}
	}
}

// save writes what waits. The lock is held.
func (k *Keeper) save(ctx context.Context) error {
	u := k.unsaved
	n := len(u.changes)
	for len(u.changes) > 0 {
		if err := k.opts.Store.Apply(ctx, u.changes[0]); err != nil {
			u.tried = time.Now()
			return fmt.Errorf("write what is known in memory only: %w", err)
		}
		u.changes = u.changes[1:]
	}
	if n > 0 {
		k.opts.Log.Info("the store takes changes again: what was known in memory only is written", "changes", n)
		if u.folded > 0 {
			k.opts.Log.Warn("more changes waited than are kept singly: what they come to is written, and not each of their events", "changes", u.folded)
		}
		u.changes, u.folded = nil, 0
		clear(u.cooldowns)
		k.events.raise()
	}
	return nil
}

// shift moves every instant that something waits for, as the store does with its own.
func (u *unsaved) shift(by time.Duration) {
	for i := range u.changes {
		shiftAll(u.changes[i].Cooldowns, by)
	}
	shiftAll(u.cooldowns, by)
}

func shiftAll(cooldowns map[int64]Cooldown, by time.Duration) {
	for member, c := range cooldowns {
		c.shift(by)
		cooldowns[member] = c
	}
}

// commit makes a change durable, or keeps it for later if the store refuses: whoever
// asked for it is answered all the same. The lock is held.
func (k *Keeper) commit(ctx context.Context, c Change) {
	u := k.unsaved
	var err error
	switch {
	case len(u.changes) == 0:
		err = k.opts.Store.Apply(ctx, c)
	case time.Since(u.tried) < unsavedRetry:
		err = errWaiting // in its turn
	default:
		if err = k.save(ctx); err == nil {
			err = k.opts.Store.Apply(ctx, c)
		}
	}
	if err == nil {
		return
	}
	if len(u.changes) == 0 {
		u.tried = time.Now()
		k.opts.Log.Error("the store refuses changes: going on from memory until it takes them", "error", err)
		select {
		case u.wake <- struct{}{}:
		default:
		}
	}
	if len(u.changes) < maxUnsaved {
		u.changes = append(u.changes, c)
	} else {
		u.fold(c)
	}
	for member, cooldown := range c.Cooldowns {
		u.cooldowns[member] = cooldown
	}
}

// fold keeps what a change does, and not its events, in the last change of its pool: that
// makes one more for each pool at the most.
func (u *unsaved) fold(c Change) {
	u.folded++
	c.Events = nil
	for i := len(u.changes) - 1; i >= 0; i-- {
		last := &u.changes[i]
		if last.Pool != c.Pool {
			continue
		}
		if len(last.Events) > 0 {
			break // its instant is theirs
		}
		last.Cooldowns, last.Parked = merged(last.Cooldowns, c.Cooldowns), merged(last.Parked, c.Parked)
		if c.Active != 0 {
			last.Active = c.Active
		}
		if c.To != "" {
			last.To, last.EdgeEvent, last.At = c.To, c.EdgeEvent, c.At
		}
		return
	}
	u.changes = append(u.changes, c)
}

// merged is what is said of members, what was said later counting.
func merged[V any](earlier, later map[int64]V) map[int64]V {
	if earlier == nil {
		return later
	}
	maps.Copy(earlier, later)
	return earlier
}

var errWaiting = errors.New("earlier changes wait")

// Unsaved is how many changes are known in memory only, because the store refuses them.
func (k *Keeper) Unsaved() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.unsaved.changes)
}
