package intercept

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/intercept/netns"
)

// TestListenerOutlastsTheLastProcess: the first connect of each process finds the listener, in a cgroup that was
// empty at its attach and is again and again.
func TestListenerOutlastsTheLastProcess(t *testing.T) {
	dir, other := newCgroup(t), newNetNS(t)
	b, r, _ := pinnedBench(t, time.Hour, true)
	own, err := netns.Current()
	must(t, err)
	t.Cleanup(func() { own.Close() })
	listens := func(n *netns.NS) bool {
		all, err := r.Listeners()
		must(t, err)
		_, ok := all[n.Cookie()]
		return ok
	}
	target, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	if !listens(own) {
		t.Error("attached, and nothing listens for the first process")
	}
	for i := range 20 {
		// TEST-NET-1 (RFC 5737): nothing answers there, but the connect is to the listener.
		if got := shell(t, dir, own, "exec 3<>/dev/tcp/192.0.2.1/443 && echo connected"); !strings.Contains(got, "connected") {
			t.Fatalf("process %d: %s", i, got)
		}
	}
	// Another namespace is not held by us once its last process is gone: who deletes it wants it gone.
	_, stop := startIn(t, dir, other)
	_ = shell(t, dir, other, "exec 3<>/dev/tcp/192.0.2.1/443") // refused: nobody could know
	eventually(t, "a listener in the other namespace", func() bool { return listens(other) })
	stop()
	eventually(t, "it is gone with its process", func() bool { return !listens(other) })
	if !listens(own) {
		t.Error("the listener in our own namespace went, too")
	}
	must(t, b.Detach(t.Context(), target.ID))
	if listens(own) {
		t.Error("detached, and somebody listens")
	}
}

// fatal is a Trust whose process ends while it is told, or does not.
type fatal struct {
	mu  sync.Mutex
	end func()
}

func (f *fatal) Install(context.Context, Target, int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.end != nil {
		f.end()
	}
	return errors.New("open mounts: no such process")
}

func (*fatal) Remove(context.Context, Target) error { return nil }

// hung does not come back from what it is called for, for one process, until it may.
type hung struct {
	pid    int
	may    chan struct{}
	begun  atomic.Int32 // for that process
	others atomic.Int32
}

func (h *hung) Install(_ context.Context, _ Target, pid int) error {
	if pid != h.pid {
		h.others.Add(1)
		return nil
	}
	h.begun.Add(1)
	<-h.may
	return nil
}

func (h *hung) Remove(context.Context, Target) error { return nil }

// TestFilesThatDoNotAnswerHoldNobodyUp: an agent's file system may be one of its own, or its server be away.
func TestFilesThatDoNotAnswerHoldNobodyUp(t *testing.T) {
	dir, other := newCgroup(t), newCgroup(t)
	pid, _ := startIn(t, dir, newNetNS(t))
	startIn(t, other, newNetNS(t))
	told := &hung{pid: pid, may: make(chan struct{})}
	b := newBench(t, func(_ *bench, o *Options) { o.Trust, o.TrustTimeout = told, 50*time.Millisecond })
	target, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	_, err = b.Attach(t.Context(), Request{Cgroup: other})
	must(t, err)
	before := told.others.Load()
	b.Confide(t.Context())
	if told.others.Load() == before || before == 0 {
		t.Errorf("the other target was looked at %d times", told.others.Load())
	}
	if n := told.begun.Load(); n != 1 {
		t.Errorf("what hangs was begun %d times", n)
	}
	close(told.may)
	eventually(t, "it is looked at again", func() bool {
		b.Confide(t.Context())
		return told.begun.Load() > 1
	})
	must(t, b.Detach(t.Context(), target.ID))
}

// TestTrustOfWhatEndsIsNoWarning: a process that ends while it is told whom to trust needs no trust any more.
func TestTrustOfWhatEndsIsNoWarning(t *testing.T) {
	const warning = "not trusted everywhere"
	for name, ends := range map[string]bool{"it ends": true, "it lives": false} {
		t.Run(name, func(t *testing.T) {
			var text bytes.Buffer
			told := &fatal{}
			dir, n := newCgroup(t), newNetNS(t)
			b := newBench(t, func(_ *bench, o *Options) {
				o.Trust, o.Log = told, slog.New(slog.NewTextHandler(&text, nil))
			})
			_, stop := startIn(t, dir, n)
			if ends {
				told.end = stop
			}
			_, err := b.Attach(t.Context(), Request{Cgroup: dir})
			must(t, err)
			b.stop()
			if warned := strings.Contains(text.String(), warning); warned == ends {
				t.Errorf("warned: %v\n%s", warned, &text)
			}
		})
	}
}
