package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/sluice-proxy/sluice/intercept"
	"github.com/sluice-proxy/sluice/intercept/cgroup"
	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/store"
	"github.com/sluice-proxy/sluice/reset"
)

// targetMemory keeps the interceptor's targets in the store. Each target comes
// and goes through it exactly once, whoever or whatever caused that, so it is
// here that the event log is told.
type targetMemory struct {
	db     *store.DB
	record func(context.Context, pool.Event)
	scopes *reaper
	known  map[string]bool // ids of the rows
}

var _ intercept.Memory = (*targetMemory)(nil)

func newTargetMemory(db *store.DB, record func(context.Context, pool.Event), scopes *reaper) *targetMemory {
	return &targetMemory{db: db, record: record, scopes: scopes, known: make(map[string]bool)}
}

// reference is what finds a target's cgroup again; the store does not look into it.
type reference struct {
	Given    string `json:"given"`
	Cgroup   string `json:"cgroup"`
	CgroupID uint64 `json:"cgroup_id"`

	Unit         string `json:"unit,omitempty"`
	Container    string `json:"container,omitempty"`
	ContainerID  string `json:"container_id,omitempty"`
	Runtime      string `json:"runtime,omitempty"`
	Namespace    string `json:"namespace,omitempty"`
	PodNamespace string `json:"pod_namespace,omitempty"`
	Selector     string `json:"selector,omitempty"`
	Parent       string `json:"parent,omitempty"`

	KeepConnections bool `json:"keep_connections,omitempty"`
}

// Save implements [intercept.Memory].
func (m *targetMemory) Save(ctx context.Context, t intercept.Target) error {
	ref, err := json.Marshal(reference{
		Given: t.Ref, Cgroup: t.Cgroup, CgroupID: t.CgroupID, Unit: t.Unit, Container: t.Container, ContainerID: t.ContainerID,
		Runtime: t.Runtime, Namespace: t.Namespace, PodNamespace: t.PodNamespace, Selector: t.Selector, Parent: t.Parent,
		KeepConnections: t.KeepConnections,
	})
	if err != nil {
		return err
	}
	row := store.Target{ID: t.ID, Kind: string(t.Kind), Ref: string(ref), Pools: t.Pools, CreatedAt: t.Created}
	if err := m.db.SaveTarget(ctx, row); err != nil || m.known[t.ID] {
		return err
	}
	m.known[t.ID] = true
	if t.Kind == intercept.KindRun {
		m.scopes.watch(t.Cgroup, false)
	}
	m.record(ctx, pool.Event{Kind: pool.EventTargetAttached, Target: t.ID, Detail: attachedTo(t), Actor: pool.ActorOf(ctx)})
	return nil
}

// attachedTo is what the event says of a target.
func attachedTo(t intercept.Target) string {
	switch t.Kind {
	case intercept.KindSelector:
		return "containers with " + t.Selector
	case intercept.KindContainer:
		return "container " + t.Container
	}
	return t.Cgroup
}

// Delete implements [intercept.Memory].
func (m *targetMemory) Delete(ctx context.Context, id string) error {
	// The target is going already: the end of who asked must not keep half of it.
	ctx = context.WithoutCancel(ctx)
	if err := m.db.DeleteTarget(ctx, id); err != nil || !m.known[id] {
		return err
	}
	delete(m.known, id)
	m.record(ctx, pool.Event{Kind: pool.EventTargetDetached, Target: id, Actor: pool.ActorOf(ctx)})
	return nil
}

// List implements [intercept.Memory].
func (m *targetMemory) List(ctx context.Context) ([]intercept.Target, error) {
	rows, err := m.db.Targets(ctx)
	if err != nil {
		return nil, err
	}
	targets := make([]intercept.Target, 0, len(rows))
	for _, row := range rows {
		var ref reference
		if err := json.Unmarshal([]byte(row.Ref), &ref); err != nil {
			return nil, fmt.Errorf("target %s: %w", row.ID, err)
		}
		targets = append(targets, intercept.Target{
			ID: row.ID, Kind: intercept.Kind(row.Kind), Ref: ref.Given, Cgroup: ref.Cgroup, CgroupID: ref.CgroupID,
			Pools: row.Pools, Created: row.CreatedAt,
			Unit: ref.Unit, Container: ref.Container, ContainerID: ref.ContainerID, Runtime: ref.Runtime,
			Namespace: ref.Namespace, PodNamespace: ref.PodNamespace, Selector: ref.Selector, Parent: ref.Parent,
			KeepConnections: ref.KeepConnections,
		})
		m.known[row.ID] = true
		if id, err := cgroup.ID(ref.Cgroup); row.Kind == string(intercept.KindRun) && err == nil && id == ref.CgroupID {
			m.scopes.watch(ref.Cgroup, true)
		}
	}
	return targets, nil
}

// agents are where the agents of a pool run that names no container: in what is
// attached for that pool, or for any.
func (d *sluiced) agents(name string) []reset.Agent {
	var agents []reset.Agent
	for _, t := range d.in.Targets() {
		if t.State != intercept.StateAttached || (len(t.Pools) > 0 && !slices.Contains(t.Pools, name)) {
			continue
		}
		switch t.Kind {
		case intercept.KindSelector: // its containers are targets of their own
		case intercept.KindContainer:
			agents = append(agents, reset.Agent{Kind: reset.InContainer, Ref: t.Namespace + inNamespace + t.ContainerID, Name: t.Container})
		default:
			agents = append(agents, reset.Agent{Kind: reset.InCgroup, Ref: t.Cgroup})
		}
	}
	return agents
}

// forgetTargets forgets what a daemon that does not run would attach again, and says
// which targets those were.
func forgetTargets(ctx context.Context, stateDir string) (forgotten []string, err error) {
	if _, err := os.Stat(filepath.Join(stateDir, store.FileName)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	db, err := store.Open(ctx, stateDir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	targets, err := db.Targets(ctx)
	if err != nil {
		return nil, err
	}
	var distrusted error
	for _, t := range targets {
		distrusted = errors.Join(distrusted, distrust(ctx, t))
		if err := db.DeleteTarget(ctx, t.ID); err != nil {
			return forgotten, errors.Join(err, distrusted)
		}
		forgotten = append(forgotten, t.ID)
	}
	return forgotten, distrusted
}

// distrust takes the CA out of a remembered target's processes. That of a run is in mounts of its own.
func distrust(ctx context.Context, row store.Target) error {
	var ref reference
	if err := json.Unmarshal([]byte(row.Ref), &ref); err != nil || ref.Cgroup == "" || row.Kind == string(intercept.KindRun) {
		return err
	}
	if err := (confidant{}).Remove(ctx, intercept.Target{ID: row.ID, Cgroup: ref.Cgroup}); err != nil {
		return fmt.Errorf("take the CA out of target %s: %w", row.ID, err)
	}
	return nil
}

// openState opens the store of a daemon that does not run. Error: [fs.ErrNotExist].
func openState(ctx context.Context, stateDir string) (*store.DB, error) {
	if _, err := os.Stat(filepath.Join(stateDir, store.FileName)); err != nil {
		return nil, err
	}
	return store.Open(ctx, stateDir)
}

// databaseFile is the store's name in a state directory. Files of SQLite's beside it begin with it.
const databaseFile = store.FileName

// copyDatabase puts the store of a state directory, as of one moment, into another directory.
func copyDatabase(ctx context.Context, stateDir, into string) error {
	return store.Copy(ctx, stateDir, filepath.Join(into, databaseFile))
}
