package intercept

import (
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/sluice-proxy/sluice/bpf"
)

// found adopts the namespace that an event tells of. Its process may have ended by now, refused, and the one
// that has started it be there still.
func (in *Interceptor) found(e bpf.EventNoListener) error {
	known, err := in.adoptTold(e)
	if err != nil || known {
		return err
	}
	var failed []error
	for _, t := range in.attachedTargets() {
		if err := in.search(t); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// adoptTold adopts the namespace of an event's process, and tells whether that is all there is to do.
func (in *Interceptor) adoptTold(e bpf.EventNoListener) (known bool, err error) {
	in.ops.Lock()
	defer in.ops.Unlock()
	if in.stopped {
		return true, nil
	}
	err = in.adopt(in.live, int(e.PID))
	if errors.Is(err, errCrowded) {
		return true, nil
	}
	// Where we listen it is told that there was no way by IPv6: one may have come.
	err = errors.Join(err, in.lookForWay(e.Cookie))
	in.mu.RLock()
	defer in.mu.RUnlock()
	return in.spaces[e.Cookie] != nil, err
}

// reports are the kernel's events that wait to be dealt with, those of each target in a queue of its own. They take turns: a
// target whose processes make namespaces all the time holds itself up, and nobody else.
type reports struct {
	mu    sync.Mutex
	of    map[*target][]bpf.EventNoListener // none of them empty
	turns []*target                         // whose there are, the next one first
	some  chan struct{}                     // holds one when there may be any
}

func newReports() *reports {
	return &reports{of: make(map[*target][]bpf.EventNoListener), some: make(chan struct{}, 1)}
}

// maxReports of a target wait. The kernel tells again of a namespace that is still used a second later.
const maxReports = 16

func (r *reports) add(t *target, e bpf.EventNoListener) {
	r.mu.Lock()
	defer r.mu.Unlock()
	waiting := r.of[t]
	if len(waiting) >= maxReports {
		return
	}
	if len(waiting) == 0 {
		r.turns = append(r.turns, t)
	}
	r.of[t] = append(waiting, e)
	select {
	case r.some <- struct{}{}:
	default:
	}
}

func (r *reports) next() (e bpf.EventNoListener, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.turns) == 0 {
		return e, false
	}
	t := r.turns[0]
	r.turns = r.turns[1:]
	e = r.of[t][0]
	if r.of[t] = r.of[t][1:]; len(r.of[t]) > 0 {
		r.turns = append(r.turns, t)
	} else {
		delete(r.of, t)
	}
	return e, true
}

// adoptReported adopts the namespaces that the programs found without a listener.
func (in *Interceptor) adoptReported(r *reports) {
	for {
		select {
		case <-r.some:
		case <-in.live.Done():
			return
		}
		for e, ok := r.next(); ok; e, ok = r.next() {
			if err := in.found(e); err != nil {
				in.opts.Log.Error("namespace without listener: its connects are refused", "pid", e.PID, "error", err)
			}
		}
	}
}

// readAgain is how long is waited after an event of the kernel's that cannot be read.
const readAgain = time.Second

// followEvents has the namespaces adopted that the programs found without a listener.
func (in *Interceptor) followEvents() {
	waiting := newReports()
	in.tasks.Go(func() { in.adoptReported(waiting) })
	for failed := false; ; {
		e, err := in.opts.Events.Read()
		if in.live.Err() != nil || errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			if !failed {
				failed = true
				in.opts.Log.Error("events of the kernel not readable: new namespaces are found late until they are", "error", err)
			}
			select {
			case <-time.After(readAgain):
			case <-in.live.Done():
			}
			continue
		}
		failed = false
		t, _ := in.owner(e.CgroupID) // nil: those of none take turns as one
		waiting.add(t, e)
	}
}
