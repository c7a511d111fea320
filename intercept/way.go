package intercept

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/intercept/netns"
)

// hasNoWay6 tells whether connects to IPv6's internet are to fail in a namespace: what goes to the listener instead has succeeded, and no
// client tries its next address then. In doubt it is false.
func hasNoWay6(ns *netns.NS) bool {
	there, err := ns.Global6()
	return err == nil && !there
}

// lookForWay publishes anew whether a namespace has a way by IPv6, which may have come or gone since it was looked at last. The caller
// holds ops.
func (in *Interceptor) lookForWay(cookie uint64) error {
	in.mu.RLock()
	s := in.spaces[cookie]
	in.mu.RUnlock()
	if s == nil {
		return nil
	}
	ports := s.ports
	if ports.NoWay6 = hasNoWay6(s.home.ns); ports == s.ports {
		return nil
	}
	if err := in.opts.Listeners.SetListener(cookie, ports); err != nil {
		return err
	}
	s.ports = ports
	return nil
}

// followWays looks at the namespaces out of which a dial found no way.
func (in *Interceptor) followWays() {
	for {
		select {
		case cookie := <-in.opts.Dialer.stuck:
			in.ops.Lock()
			var err error
			if !in.stopped {
				err = in.lookForWay(cookie)
			}
			in.ops.Unlock()
			if err != nil {
				in.opts.Log.Error("connects by IPv6 do not fail at once in a namespace that has no way for them", "error", err)
			}
		case <-in.live.Done():
			return
		}
	}
}

// stray has the namespace looked at if there was no way by IPv6. A dial waits for nobody: the next one tells again.
func (h *home) stray(dst netip.AddrPort, err error) {
	if !netns.IsGlobal6(dst.Addr()) || !(errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EADDRNOTAVAIL)) {
		return
	}
	select {
	case h.dialer.stuck <- h.ns.Cookie():
	default:
	}
}
