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
	err := onThread(func() error {
		here, err := netns.Get()
		if err != nil {
			return err
		}
		defer here.Close()
		if n.handle, err = netns.New(); err != nil {
			return err
		}
		return netns.Set(here)
	})
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
	return onThread(func() error {
		here, err := netns.Get()
		if err != nil {
			return err
		}
		defer here.Close()
		if err := netns.Set(n.handle); err != nil {
			return err
		}
		return errors.Join(f(), netns.Set(here))
	})
}

// onThread runs f on a thread that is given up if f fails: it may be in the
// wrong namespace.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := f()
		if err == nil {
			runtime.UnlockOSThread()
		}
		done <- err
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

// Dummy adds an interface that leads nowhere and has the addresses
// ("198.18.77.1/24").
func (n *Namespace) Dummy(name string, addrs ...string) error {
	return n.links(func(h *netlink.Handle) error {
		if err := h.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
		return raise(h, name, addrs)
	})
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
