package intercept

import (
	"errors"
	"net"
	"time"
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
		if err != nil {
			// EMFILE, ENFILE, ENOBUFS, ENOMEM: the connection stays in the backlog.
			in.count.acceptErrors.Add(1)
			in.opts.Log.Error("accept", "error", err)
			select {
			case <-time.After(pause):
			case <-s.done:
			case <-in.live.Done():
			}
			pause = min(2*pause, most)
			continue
		}
		pause = first
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
