package intercept

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"

	"github.com/sluice-proxy/sluice/intercept/netns"
)

// FDStore keeps descriptors while no daemon runs, as systemd's does (FileDescriptorStoreMax= in
// systemd.service(5)). Connects to a listener that is kept wait in its backlog for the next daemon. It is called by
// one goroutine at a time.
type FDStore interface {
	// Inherited are what an earlier daemon stored, by name; several may have the same one.
	// The files are the caller's to close. Further calls return none.
	Inherited() map[string][]*os.File
	// Store has a duplicate of a descriptor kept under a name, besides what is there already.
	Store(name string, fd uintptr) error
	// Remove lets go of all that have this name.
	Remove(name string) error
}

// keptName is a listener's name in the store. A namespace's cookie is never reused.
func keptName(cookie uint64, v6 bool) string {
	family := 4
	if v6 {
		family = 6
	}
	return fmt.Sprintf("netns-%d-tcp%d", cookie, family)
}

// kept are the listeners of one namespace that an earlier daemon stored; nil: not that one.
type kept struct{ v4, v6 *net.TCPListener }

func (k *kept) of(v6 bool) **net.TCPListener {
	if v6 {
		return &k.v6
	}
	return &k.v4
}

// inherit takes over the stored listeners, for the namespaces that turn out to be needed. Whatever
// else is found in the store is let go. The caller holds ops.
func (in *Interceptor) inherit() error {
	if in.opts.FDStore == nil {
		return nil
	}
	published, err := in.opts.Listeners.Listeners()
	if err != nil {
		return fmt.Errorf("read the published listeners: %w", err)
	}
	for name, files := range in.opts.FDStore.Inherited() {
		spoilt := false // the name stands for more than the one that is wanted
		var best *netns.Inherited
		for _, file := range files {
			l, err := netns.Inherit(file)
			if err == nil && name != keptName(l.Cookie, l.IPv6) {
				err = errors.Join(errors.New("it is the listener of another namespace"), l.Close())
			}
			if err != nil {
				in.opts.Log.Warn("stored descriptor let go", "name", name, "error", err)
				spoilt = true
				continue
			}
			switch ports := published[l.Cookie]; {
			case best == nil:
				best = &l
			case port(l.TCPListener) == ports.Port4 || port(l.TCPListener) == ports.Port6:
				_ = best.Close()
				best, spoilt = &l, true
			default:
				_ = l.Close()
				spoilt = true
			}
		}
		if spoilt {
			in.unkeep(name)
		}
		if best == nil {
			continue
		}
		if spoilt {
			in.keep(name, best.TCPListener)
		}
		k := in.kept[best.Cookie]
		if k == nil {
			k = new(kept)
			in.kept[best.Cookie] = k
		}
		*k.of(best.IPv6) = best.TCPListener
	}
	return nil
}

// listen makes the listeners of a namespace, or takes those that an earlier daemon had there,
// in whose backlogs connections may wait. The caller holds ops.
func (in *Interceptor) listen(ctx context.Context, ns *netns.NS) (v4, v6 *net.TCPListener, err error) {
	k := in.kept[ns.Cookie()]
	if k == nil {
		k = new(kept)
	}
	delete(in.kept, ns.Cookie())
	if k.v4 != nil && k.v6 != nil {
		return k.v4, k.v6, nil
	}
	if v4, v6, err = ns.Loopback(ctx); err != nil {
		in.discard(ns.Cookie(), k)
		return nil, nil, err
	}
	if k.v4 != nil {
		_ = v4.Close()
		v4 = k.v4
	} else {
		in.keep(keptName(ns.Cookie(), false), v4)
	}
	switch {
	case k.v6 != nil && v6 != nil:
		_ = v6.Close()
		v6 = k.v6
	case k.v6 != nil:
		v6 = k.v6
	case v6 != nil:
		in.keep(keptName(ns.Cookie(), true), v6)
	}
	return v4, v6, nil
}

// keep has a listener outlive this daemon. Without that a restart refuses connects for a moment.
func (in *Interceptor) keep(name string, l *net.TCPListener) {
	if in.opts.FDStore == nil {
		return
	}
	raw, err := l.SyscallConn()
	if err == nil {
		if ctl := raw.Control(func(fd uintptr) { err = in.opts.FDStore.Store(name, fd) }); ctl != nil {
			err = ctl
		}
	}
	if err != nil {
		in.opts.Log.Warn("listener not stored: a restart will refuse connects until it listens again", "name", name, "error", err)
	}
}

// unkeep has the store let go of a name.
func (in *Interceptor) unkeep(name string) {
	if in.opts.FDStore == nil {
		return
	}
	if err := in.opts.FDStore.Remove(name); err != nil {
		in.opts.Log.Warn("stored descriptor not let go: it keeps its network namespace until the service stops", "name", name, "error", err)
	}
}

// forsake has the store let go of a namespace's listeners.
func (in *Interceptor) forsake(cookie uint64) {
	in.unkeep(keptName(cookie, false))
	in.unkeep(keptName(cookie, true))
}

// discard closes listeners that nobody needs, and has the store let go of them: it would keep
// their namespace.
func (in *Interceptor) discard(cookie uint64, k *kept) {
	for _, l := range []*net.TCPListener{k.v4, k.v6} {
		if l != nil {
			_ = l.Close()
		}
	}
	in.forsake(cookie)
}

// discardKept is discard for all that no target's process has needed.
func (in *Interceptor) discardKept() {
	for _, cookie := range slices.Sorted(maps.Keys(in.kept)) {
		in.opts.Log.Info("listener of a former run let go", "netns", cookie)
		in.discard(cookie, in.kept[cookie])
		delete(in.kept, cookie)
	}
}
