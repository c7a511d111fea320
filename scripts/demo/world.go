package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// The world's addresses are from the range for benchmarks (RFC 2544), which is
// nobody's on the internet.
const (
	openAIAddr    = "198.18.77.1"
	anthropicAddr = "198.18.77.2"
	agentAddr     = "198.18.77.10"
	prefix        = "/24"
)

// window is how long the upstream refuses a key that has run out; the shortest
// that sluice believes is 10 s.
const window = 12 * time.Second

// What the simulated provider knows. The agent never sees the first two.
const (
	firstSecret  = "sk-demo-first-0123456789abcdef"
	secondSecret = "sk-demo-second-0123456789abcdef"
	ownSecret    = "sk-ant-the-agents-own-key"
)

// world is where the agent lives: its network namespace, that of the upstream,
// and the cable between them. There is no route out.
type world struct {
	agent, upstream netns.NsHandle
	sim             *simulator.Simulator
	caFile          string // the CA of the upstream's certificates
	hostsFile       string // what stands in the place of DNS
}

func newWorld(ctx context.Context, dir string) (_ *world, err error) {
	w := &world{
		agent: netns.None(), upstream: netns.None(),
		caFile: filepath.Join(dir, "upstream-ca.pem"), hostsFile: filepath.Join(dir, "hosts"),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.upstream, err = newNamespace(); err != nil {
		return nil, err
	}
	if w.agent, err = newNamespace(); err != nil {
		return nil, err
	}
	if err = w.cable(); err != nil {
		return nil, err
	}
	if err = w.simulate(ctx); err != nil {
		return nil, err
	}
	hosts := fmt.Sprintf("127.0.0.1 localhost\n%s api.openai.com\n%s api.anthropic.com\n", openAIAddr, anthropicAddr)
	if err = os.WriteFile(w.hostsFile, []byte(hosts), 0o644); err != nil {
		return nil, err
	}
	return w, os.WriteFile(w.caFile, w.sim.CA(), 0o644)
}

// newNamespace makes a network namespace without a name: it lives as long as
// somebody uses it.
func newNamespace() (made netns.NsHandle, err error) {
	err = onThread(func() error {
		here, err := netns.Get()
		if err != nil {
			return err
		}
		defer here.Close()
		if made, err = netns.New(); err != nil {
			return err
		}
		return netns.Set(here)
	})
	return made, err
}

// inNamespace runs f, and what it starts, in a namespace.
func inNamespace(ns netns.NsHandle, f func() error) error {
	return onThread(func() error {
		here, err := netns.Get()
		if err != nil {
			return err
		}
		defer here.Close()
		if err := netns.Set(ns); err != nil {
			return err
		}
		return errors.Join(f(), netns.Set(here))
	})
}

// onThread runs f on a thread of its own, which is given up if f fails: it may
// be in the wrong namespace.
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

// cable joins the two namespaces.
func (w *world) cable() error {
	up, err := netlink.NewHandleAt(w.upstream)
	if err != nil {
		return err
	}
	defer up.Close()
	agent, err := netlink.NewHandleAt(w.agent)
	if err != nil {
		return err
	}
	defer agent.Close()
	if err := up.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "upstream0"},
		PeerName:  "eth0", PeerNamespace: netlink.NsFd(w.agent),
	}); err != nil {
		return fmt.Errorf("veth: %w", err)
	}
	for _, end := range []struct {
		at    *netlink.Handle
		link  string
		addrs []string
	}{
		{up, "lo", nil},
		{agent, "lo", nil},
		{up, "upstream0", []string{openAIAddr, anthropicAddr}},
		{agent, "eth0", []string{agentAddr}},
	} {
		link, err := end.at.LinkByName(end.link)
		if err != nil {
			return fmt.Errorf("link %s: %w", end.link, err)
		}
		for _, text := range end.addrs {
			addr, err := netlink.ParseAddr(text + prefix)
			if err != nil {
				return err
			}
			if err := end.at.AddrAdd(link, addr); err != nil {
				return fmt.Errorf("address %s: %w", text, err)
			}
		}
		if err := end.at.LinkSetUp(link); err != nil {
			return fmt.Errorf("link %s: %w", end.link, err)
		}
	}
	return nil
}

// simulate starts the upstream: the first key has three requests, the second two.
func (w *world) simulate(ctx context.Context) error {
	var listeners []net.Listener
	err := inNamespace(w.upstream, func() error {
		for _, addr := range []string{openAIAddr, anthropicAddr} {
			config := new(net.ListenConfig)
			config.SetMultipathTCP(false)
			l, err := config.Listen(ctx, "tcp", net.JoinHostPort(addr, "443"))
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
		return err
	}
	key := func(name, secret string, quota int) simulator.Credential {
		return simulator.Credential{Name: name, Secret: secret, Behaviour: simulator.Behaviour{
			Quota: quota, Window: simulator.Duration(window), Interval: simulator.Duration(40 * time.Millisecond),
		}}
	}
	w.sim, err = simulator.New(simulator.Options{Listeners: listeners, Credentials: []simulator.Credential{
		key("first", firstSecret, 3), key("second", secondSecret, 2), key("the agent's own", ownSecret, 0),
	}})
	if err != nil {
		return err
	}
	return w.sim.Start(context.WithoutCancel(ctx))
}

// start starts a command in the agent's namespace.
func (w *world) start(cmd *exec.Cmd) error { return inNamespace(w.agent, cmd.Start) }

// close takes the world down. It may be half built.
func (w *world) close() error {
	var errs []error
	if w.sim != nil {
		errs = append(errs, w.sim.Close())
	}
	for _, ns := range []*netns.NsHandle{&w.agent, &w.upstream} {
		if ns.IsOpen() {
			errs = append(errs, ns.Close())
		}
	}
	return errors.Join(errs...)
}
