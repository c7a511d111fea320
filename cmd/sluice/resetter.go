package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"

	"github.com/sluice-proxy/sluice/intercept/container"
	"github.com/sluice-proxy/sluice/reset"
	"github.com/sluice-proxy/sluice/reset/containerd"
	"github.com/sluice-proxy/sluice/reset/guest"
	beside "github.com/sluice-proxy/sluice/reset/scope"
)

// containerdLimit is how long containerd may take to answer the first call.
const containerdLimit = 5 * time.Second

// openContainers is for all who ask for containers by name. Nobody is asked yet.
func (d *sluiced) openContainers(context.Context) error {
	d.finder = container.New(container.Options{
		Containerd: d.cfg.Containers.Containerd, Docker: d.cfg.Containers.Docker, Runtimes: d.cfg.Containers.HoldStarts, Log: d.log,
	})
	d.acquired(d.finder.Close)
	return nil
}

// openResetter puts together what resets agents. It is a reader of the event log, so it
// is opened before the monitor; what it asks of the monitor and of the targets it asks
// when those are there.
func (d *sluiced) openResetter(context.Context) error {
	containers, err := d.containerRuntime()
	if err != nil {
		return err
	}
	d.resets = reset.New(reset.Options{
		Pools: d.keep, Ledger: d.keep, Agents: d.agents, Profiles: d.cfg.Profiles, Always: d.cfg.ResetAlways, Log: d.log,
		Runtimes: map[reset.Kind]reset.Runtime{reset.InContainer: containers, reset.InCgroup: beside.Runtime{}},
		Noticed:  func(ctx context.Context, seq int64) error { return d.watch.Load().Noticed(ctx, seq) },
	})
	return nil
}

// containerRuntime is that of the configuration.
func (d *sluiced) containerRuntime() (reset.Runtime, error) {
	switch d.cfg.Containers.Runtime {
	case "apple":
		return guest.NewApple(""), nil
	case "tart":
		return guest.NewTart(""), nil
	}
	// That containerd does not run is no reason not to start.
	c, err := client.New(d.cfg.Containers.Containerd, client.WithTimeout(containerdLimit))
	if err != nil {
		return nil, err
	}
	d.acquired(c.Close)
	return containerd.New(containerd.Options{Client: c, Find: found(d.finder), Log: d.log}), nil
}

// inNamespace is between containerd's namespace and an id in a reference that sluice
// itself makes; no name of a container has it.
const inNamespace = "//"

// found finds containers as `attach` does.
func found(finder *container.Finder) func(ctx context.Context, ref string) (containerd.Found, error) {
	return func(ctx context.Context, ref string) (containerd.Found, error) {
		query := container.Query{Name: ref}
		if namespace, id, both := strings.Cut(ref, inNamespace); both {
			query = container.Query{Name: id, Namespace: namespace}
		}
		c, err := finder.Find(ctx, query)
		switch {
		case errors.Is(err, container.ErrNotFound):
			err = reset.As(reset.ErrNotFound, err)
		case errors.Is(err, container.ErrUnavailable):
			err = reset.As(reset.ErrUnavailable, err)
		}
		return containerd.Found{Namespace: c.Namespace, ID: c.ID}, err
	}
}
