package control

import (
	"sync"
	"time"

	"github.com/sluice-proxy/sluice/intercept"
)

// lookLimit is how long the look at who in the targets does not trust the CA may take.
const lookLimit = 10 * time.Second

// notLooked is what is said of a target whose files do not answer.
const notLooked = "its files do not answer, and who in it does not trust the CA is not known: see which of its file systems (FUSE, NFS) hangs"

// looks are those at the targets' processes that are under way, by the target's id. They read files of the target's: a file system of
// its own making, or one whose server is away, does not answer, and nothing can end such a look. Whoever asks meanwhile waits for the
// same one.
type looks struct {
	mu  sync.Mutex
	way map[string]*look
}

type look struct {
	began time.Time
	ended chan struct{} // closed when found is there
	found []intercept.Untrusting
}

// at is the look at a target that is under way, or a new one.
func (l *looks) at(t intercept.Target, trust Trust) *look {
	l.mu.Lock()
	defer l.mu.Unlock()
	if under := l.way[t.ID]; under != nil {
		return under
	}
	if l.way == nil {
		l.way = make(map[string]*look)
	}
	begun := &look{began: time.Now(), ended: make(chan struct{})}
	l.way[t.ID] = begun
	go func() {
		begun.found = trust.Untrusting(t)
		l.mu.Lock()
		delete(l.way, t.ID)
		l.mu.Unlock()
		close(begun.ended)
	}()
	return begun
}

// untrusting completes the targets with who in them does not trust the CA. All are looked at at once: those that do not answer are
// waited for together.
func (o *Operations) untrusting(all []intercept.Target) {
	if o.o.Trust == nil {
		return
	}
	begun := make([]*look, len(all))
	for i, t := range all {
		if t.State == intercept.StateAttached {
			begun[i] = o.looks.at(t, o.o.Trust)
		}
	}
	for i, l := range begun {
		if l == nil {
			continue
		}
		select {
		case <-l.ended:
		case <-time.After(time.Until(l.began.Add(lookLimit))):
		}
		select {
		case <-l.ended: // be it at the last moment
			all[i].Untrusting = l.found
		default:
			all[i].Reason = notLooked
		}
	}
}
