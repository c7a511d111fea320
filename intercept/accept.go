package intercept

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// accept serves a listener until it is closed. It begins once every remembered target
// is there: what has waited in the backlog since an earlier daemon may belong to any of them.
func (in *Interceptor) accept(s *space, l *net.TCPListener) {
	select {
	case <-in.ready:
	case <-s.done:
		return
	case <-in.live.Done():
		return
	}
	const first, most = 5 * time.Millisecond, time.Second
	pause := first
	for {
		c, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if errors.Is(err, unix.EINVAL) { // it does not listen any more
			select {
			case <-time.After(most): // whoever destroyed it may go on with that
				in.reopen(s)
			case <-s.done:
			case <-in.live.Done():
			}
			return
		}
		if err != nil {
			// EMFILE, ENFILE, ENOBUFS, ENOMEM: the connection stays in the backlog.
			in.count.acceptErrors.Add(1)
			in.starving.failed(in.opts.Log, time.Now(), err)
			select {
			case <-time.After(pause):
			case <-s.done:
			case <-in.live.Done():
			}
			pause = min(2*pause, most)
			continue
		}
		if pause != first {
			pause = first
			in.starving.over(in.opts.Log, time.Now())
		}
		// Not taken in time, because we end: nobody else can serve it any more, so it waits on its own.
		slot := in.slot(s)
		if !slot && in.live.Err() == nil {
			_ = c.Close()
			return
		}
		s.home.keep()
		in.conns.Go(func() {
			defer s.home.release()
			if !slot && !in.lateSlot() {
				_ = c.Close()
				return
			}
			defer func() { <-in.slots }()
			in.serve(c, s.home)
		})
	}
}

// slot waits for the right to serve one more connection; it is false when the listener
// is given up, or the end comes, first.
func (in *Interceptor) slot(s *space) bool {
	select {
	case in.slots <- struct{}{}:
		return true
	default:
		in.count.full.Add(1)
	}
	select {
	case in.slots <- struct{}{}:
		return true
	case <-s.done:
	case <-in.live.Done():
	}
	return false
}

// lateSlot is slot for the time in which connections are drained.
func (in *Interceptor) lateSlot() bool {
	select {
	case in.slots <- struct{}{}:
		return true
	case <-in.conn.Done():
		return false
	}
}

// lastSlots are left to targets that have few connections, so that none keeps all others out by having many.
const lastSlots = 64

// crowds reports whether a target with that many connections, the new one among them, has to do without it.
func (in *Interceptor) crowds(t *target, open int64) bool {
	last := min(lastSlots, cap(in.slots)/8)
	if open <= max(int64(last/4), 1) || cap(in.slots)-len(in.slots) >= last {
		return false
	}
	in.count.crowded.Add(1)
	said, now := in.refusedAt.Load(), time.Now().UnixNano()
	if now-said > int64(starvingSilence) && in.refusedAt.CompareAndSwap(said, now) {
		in.opts.Log.Warn("connections are refused: their target has most of those that can be served at a time",
			"target", t.ID, "connections", open-1, "served", cap(in.slots))
	}
	return true
}

// starving says once that connections are not accepted, for all listeners together, and
// once that they are again.
type starving struct {
	mu       sync.Mutex
	since    time.Time // zero: accepting works
	failures int
	silent   time.Time // until then a further beginning is not worth a line
}

// starvingSilence is how long the log is spared after an end: at the very limit of open
// files connections are accepted and not in turn.
const starvingSilence = 10 * time.Second

func (s *starving) failed(log *slog.Logger, now time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures++
	if !s.since.IsZero() || now.Before(s.silent) {
		return
	}
	s.since = now
	log.Error("connections are not accepted: they wait until there is room", "error", err)
}

func (s *starving) over(log *slog.Logger, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since.IsZero() {
		return
	}
	log.Warn("connections are accepted again", "after", now.Sub(s.since).Round(time.Millisecond), "failures", s.failures)
	s.since, s.failures, s.silent = time.Time{}, 0, now.Add(starvingSilence)
}
