package api

import (
	"net/http"

	"github.com/sluice-proxy/sluice/control"
	"github.com/sluice-proxy/sluice/intercept"
)

// ListTargets answers GET /api/targets.
func (s *Server) ListTargets(w http.ResponseWriter, r *http.Request) {
	s.answer(w, r, http.StatusOK, newTargets(s.ops.ListTargets()), nil)
}

// AttachTarget answers POST /api/targets.
func (s *Server) AttachTarget(w http.ResponseWriter, r *http.Request) {
	spec, err := decode[TargetSpec](r)
	if err != nil {
		fail(w, r, s.log, err)
		return
	}
	target, environment, err := s.ops.Attach(r.Context(), actor(r), control.TargetSpec{
		Cgroup: deref(spec.Cgroup), PID: deref(spec.Pid), Unit: deref(spec.Unit), Container: deref(spec.Container),
		Selector: deref(spec.Selector), Namespace: deref(spec.Namespace), Pools: deref(spec.Pools), Transient: deref(spec.Transient),
		KeepConnections: deref(spec.KeepConnections),
	})
	s.answer(w, r, http.StatusCreated, newAttachedTarget(target, environment), err)
}

// DetachAllTargets answers DELETE /api/targets.
func (s *Server) DetachAllTargets(w http.ResponseWriter, r *http.Request) {
	targets, err := s.ops.DetachAll(r.Context(), actor(r))
	s.answer(w, r, http.StatusOK, newTargets(targets), err)
}

// DetachTarget answers DELETE /api/targets/{id}.
func (s *Server) DetachTarget(w http.ResponseWriter, r *http.Request, id string) {
	s.answer(w, r, http.StatusNoContent, nil, s.ops.Detach(r.Context(), actor(r), id))
}

func newTargets(targets []intercept.Target) []Target {
	list := make([]Target, 0, len(targets))
	for _, t := range targets {
		list = append(list, newTarget(t))
	}
	return list
}

func newTarget(t intercept.Target) Target {
	return Target{
		Id: t.ID, Kind: TargetKind(t.Kind), Ref: t.Ref, State: TargetState(t.State), Reason: t.Reason,
		Cgroup: t.Cgroup, CgroupId: t.CgroupID, Namespaces: array(t.Namespaces), Pools: array(t.Pools),
		Connections: t.Connections, CreatedAt: t.Created.UTC(),
		Unit: t.Unit, Container: t.Container, ContainerId: t.ContainerID, Runtime: t.Runtime,
		Namespace: t.Namespace, Selector: t.Selector, Parent: t.Parent, Untrusting: newUntrusting(t.Untrusting),
		Guard: t.Guard, Destroyed: t.Destroyed, Kept: t.Kept, Older: newOlder(t.Older), Unserved: t.Unserved,
	}
}

func newOlder(all []intercept.Older) []OlderConnection {
	list := make([]OlderConnection, 0, len(all))
	for _, o := range all {
		list = append(list, OlderConnection{
			Protocol: OlderConnectionProtocol(o.Protocol), Local: o.Local, Remote: o.Remote, State: o.State, Pid: o.PID,
			Command: o.Command, Fate: OlderConnectionFate(o.Fate),
		})
	}
	return list
}

func newUntrusting(all []intercept.Untrusting) []Untrusting {
	list := make([]Untrusting, 0, len(all))
	for _, u := range all {
		list = append(list, Untrusting{Pid: u.PID, Process: u.Process, Reason: u.Reason, WayOut: u.WayOut})
	}
	return list
}

func newAttachedTarget(t intercept.Target, environment map[string]string) AttachedTarget {
	plain := newTarget(t)
	return AttachedTarget{
		Id: plain.Id, Kind: AttachedTargetKind(plain.Kind), Ref: plain.Ref, State: AttachedTargetState(plain.State),
		Reason: plain.Reason, Cgroup: plain.Cgroup, CgroupId: plain.CgroupId, Namespaces: plain.Namespaces,
		Pools: plain.Pools, Connections: plain.Connections, CreatedAt: plain.CreatedAt, Environment: environment,
		Unit: plain.Unit, Container: plain.Container, ContainerId: plain.ContainerId, Runtime: plain.Runtime,
		Namespace: plain.Namespace, Selector: plain.Selector, Parent: plain.Parent,
		Untrusting: plain.Untrusting, Guard: plain.Guard, Destroyed: plain.Destroyed, Kept: plain.Kept, Older: plain.Older,
		Unserved: plain.Unserved,
	}
}

// array is never null in JSON.
func array[T any](values []T) []T {
	if values == nil {
		return []T{}
	}
	return values
}
