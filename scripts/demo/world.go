package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/sluice-proxy/sluice/scripts/sandbox"
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

// How long the upstream refuses a key that has run out. The shortest time that
// sluice believes is 10 s; they differ so that one is back before the other.
const (
	firstWindow  = 12 * time.Second
	secondWindow = 16 * time.Second
)

// What the simulated provider knows. The agent never sees the first two.
const (
	firstSecret  = "sk-demo-first-0123456789abcdef"
	secondSecret = "sk-demo-second-0123456789abcdef"
	ownSecret    = "sk-ant-the-agents-own-key"
)

// world is where the agent lives: its network namespace, that of the upstream,
// and the cable between them. There is no route out.
type world struct {
	agent, upstream *sandbox.Namespace
	sim             *simulator.Simulator
	caFile          string // the CA of the upstream's certificates
	hostsFile       string // what stands in the place of DNS
}

func newWorld(ctx context.Context, dir string) (_ *world, err error) {
	w := &world{
		caFile: filepath.Join(dir, "upstream-ca.pem"), hostsFile: filepath.Join(dir, "hosts"),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.upstream, err = sandbox.NewNamespace(); err != nil {
		return nil, err
	}
	if w.agent, err = sandbox.NewNamespace(); err != nil {
		return nil, err
	}
	if err = w.upstream.Cable("upstream0", []string{openAIAddr + prefix, anthropicAddr + prefix},
		w.agent, "eth0", []string{agentAddr + prefix}); err != nil {
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

// simulate starts the upstream: the first key has three requests, the second two.
func (w *world) simulate(ctx context.Context) error {
	listeners, err := w.upstream.Listen(ctx, net.JoinHostPort(openAIAddr, "443"), net.JoinHostPort(anthropicAddr, "443"))
	if err != nil {
		return err
	}
	key := func(name, secret string, quota int, window time.Duration) simulator.Credential {
		return simulator.Credential{Name: name, Secret: secret, Behaviour: simulator.Behaviour{
			Quota: quota, Window: simulator.Duration(window), Interval: simulator.Duration(40 * time.Millisecond),
		}}
	}
	w.sim, err = simulator.New(simulator.Options{Listeners: listeners, Credentials: []simulator.Credential{
		key("first", firstSecret, 3, firstWindow), key("second", secondSecret, 2, secondWindow), key("the agent's own", ownSecret, 0, 0),
	}})
	if err != nil {
		return err
	}
	return w.sim.Start(context.WithoutCancel(ctx))
}

// close takes the world down. It may be half built.
func (w *world) close() error {
	var errs []error
	if w.sim != nil {
		errs = append(errs, w.sim.Close())
	}
	for _, ns := range []*sandbox.Namespace{w.agent, w.upstream} {
		if ns != nil {
			errs = append(errs, ns.Close())
		}
	}
	return errors.Join(errs...)
}
