package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Namespace is a network namespace without a name: it lives as long as
// somebody uses it. It begins with the loopback interface up and no route.
type Namespace struct{ handle netns.NsHandle }

// NewNamespace makes one, open until Close.
func NewNamespace() (*Namespace, error) {
	n := &Namespace{handle: netns.None()}
	err := elsewhere(func() (err error) {
		n.handle, err = netns.New() // and enters it
		return err
	}, func() error { return nil })
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", errors.Join(err, n.Close()))
	}
	err = n.links(func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		return h.LinkSetUp(lo)
	})
	if err != nil {
		return nil, fmt.Errorf("network namespace: lo: %w", errors.Join(err, n.Close()))
	}
	return n, nil
}

// Close lets go of the namespace.
func (n *Namespace) Close() error {
	if !n.handle.IsOpen() {
		return nil
	}
	return n.handle.Close()
}

// Do runs f, and what it starts, inside.
func (n *Namespace) Do(f func() error) error {
	return elsewhere(func() error { return netns.Set(n.handle) }, f)
}

// elsewhere moves a thread by enter, runs f on it and moves it back. A thread
// that cannot go back is given up. Any other is kept, whatever f's error: a
// child that f started hears of its thread's end as of its parent's.
func elsewhere(enter, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		here, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer here.Close()
		if err = enter(); err == nil {
			err = f()
		}
		back := netns.Set(here)
		if back == nil {
			runtime.UnlockOSThread()
		}
		done <- errors.Join(err, back)
	}()
	return <-done
}

// Listen listens inside, on each of the addresses: plain TCP, no MPTCP.
func (n *Namespace) Listen(ctx context.Context, addrs ...string) ([]net.Listener, error) {
	var listeners []net.Listener
	err := n.Do(func() error {
		for _, addr := range addrs {
			config := new(net.ListenConfig)
			config.SetMultipathTCP(false)
			l, err := config.Listen(ctx, "tcp", addr)
			if err != nil {
				return err
			}
			listeners = append(listeners, l)
		}
		return nil
	})
	if err != nil {
		for _, l := range listeners {
			err = errors.Join(err, l.Close())
		}
		return nil, err
	}
	return listeners, nil
}

// Own gives the namespace addresses ("198.18.77.1/32") that are nobody else's:
// on its loopback interface, but no loopback addresses.
func (n *Namespace) Own(addrs ...string) error {
	return n.links(func(h *netlink.Handle) error { return raise(h, "lo", addrs) })
}

// Cable joins two namespaces by an Ethernet pair; each end has the addresses given.
func (n *Namespace) Cable(name string, addrs []string, to *Namespace, toName string, toAddrs []string) error {
	err := n.links(func(h *netlink.Handle) error {
		if err := h.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: name},
			PeerName:  toName, PeerNamespace: netlink.NsFd(to.handle),
		}); err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
		return raise(h, name, addrs)
	})
	if err != nil {
		return err
	}
	return to.links(func(h *netlink.Handle) error { return raise(h, toName, toAddrs) })
}

func raise(h *netlink.Handle, name string, addrs []string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	for _, text := range addrs {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		if err := h.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("link %s: address %s: %w", name, text, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	return nil
}

// links talks to the kernel about the namespace's interfaces.
func (n *Namespace) links(f func(*netlink.Handle) error) error {
	h, err := netlink.NewHandleAt(n.handle)
	if err != nil {
		return err
	}
	defer h.Close()
	return f(h)
}
