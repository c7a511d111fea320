package api

import (
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/sluice-proxy/sluice/control"
	"github.com/sluice-proxy/sluice/pool"
)

// ListPools answers GET /api/pools.
func (s *Server) ListPools(w http.ResponseWriter, r *http.Request) {
	pools, err := s.ops.ListPools(r.Context())
	list := make([]Pool, 0, len(pools))
	for _, p := range pools {
		list = append(list, newPool(p))
	}
	s.answer(w, r, http.StatusOK, list, err)
}

// CreatePool answers POST /api/pools.
func (s *Server) CreatePool(w http.ResponseWriter, r *http.Request) {
	spec, err := decode[PoolSpec](r)
	if err != nil {
		fail(w, r, s.log, err)
		return
	}
	made, err := s.ops.CreatePool(r.Context(), actor(r), spec.pool())
	s.answer(w, r, http.StatusCreated, newPool(made), err)
}

// GetPool answers GET /api/pools/{name}.
func (s *Server) GetPool(w http.ResponseWriter, r *http.Request, name PoolName) {
	status, err := s.ops.Pool(r.Context(), name)
	s.answerPool(w, r, status, err)
}

// RemovePool answers DELETE /api/pools/{name}.
func (s *Server) RemovePool(w http.ResponseWriter, r *http.Request, name PoolName, p RemovePoolParams) {
	_, err := s.ops.RemovePool(r.Context(), seen(r, p.IfMatch), name)
	s.answer(w, r, http.StatusNoContent, nil, err)
}

// RotatePool answers POST /api/pools/{name}/rotate.
func (s *Server) RotatePool(w http.ResponseWriter, r *http.Request, name PoolName, p RotatePoolParams) {
	status, err := s.ops.RotatePool(r.Context(), seen(r, p.IfMatch), name)
	s.answerPool(w, r, status, err)
}

// ClearPool answers POST /api/pools/{name}/clear.
func (s *Server) ClearPool(w http.ResponseWriter, r *http.Request, name PoolName, p ClearPoolParams) {
	spec, err := decode[ClearSpec](r)
	if err != nil {
		fail(w, r, s.log, err)
		return
	}
	status, err := s.ops.ClearPool(r.Context(), seen(r, p.IfMatch), name, deref(spec.Member))
	s.answerPool(w, r, status, err)
}

// AddMember answers POST /api/pools/{name}/members/{credential}.
func (s *Server) AddMember(w http.ResponseWriter, r *http.Request, name PoolName, credential MemberName, p AddMemberParams) {
	status, err := s.ops.AddMember(r.Context(), seen(r, p.IfMatch), name, credential)
	s.answerPool(w, r, status, err)
}

// RemoveMember answers DELETE /api/pools/{name}/members/{credential}.
func (s *Server) RemoveMember(w http.ResponseWriter, r *http.Request, name PoolName, credential MemberName, p RemoveMemberParams) {
	status, err := s.ops.RemoveMember(r.Context(), seen(r, p.IfMatch), name, credential)
	s.answerPool(w, r, status, err)
}

// seen is the actor, with the pool that the request goes by.
func seen(r *http.Request, ifMatch *IfMatch) control.Actor {
	by := actor(r)
	if by.Seen = strings.Trim(deref(ifMatch), `"`); by.Seen == "*" {
		by.Seen = "" // RFC 9110, 13.1.1: whatever there is
	}
	return by
}

// answerPool sends a pool, and what If-Match may say of it.
func (s *Server) answerPool(w http.ResponseWriter, r *http.Request, p pool.PoolStatus, err error) {
	if err == nil {
		w.Header().Set("ETag", `"`+control.Version(p)+`"`)
	}
	s.answer(w, r, http.StatusOK, s.poolStatus(p), err)
}

func (spec PoolSpec) pool() pool.Pool {
	p := pool.Pool{Name: spec.Name, Members: spec.Members, Provider: deref(spec.Provider)}
	p.Hold = time.Duration(deref(spec.HoldSeconds)) * time.Second
	p.Strategy = pool.Strategy(deref(spec.Strategy))
	p.AuthResetTarget, p.AgentProfile, p.Container = deref(spec.AuthResetTarget), deref(spec.AgentProfile), deref(spec.Container)
	for _, b := range deref(spec.Bindings) {
		p.Bindings = append(p.Bindings, pool.Binding{
			Host: b.Host, Port: uint16(deref(b.Port)), Header: deref(b.Header),
		})
	}
	return p
}

func newBindings(bindings []pool.Binding) []Binding {
	list := make([]Binding, 0, len(bindings))
	for _, b := range bindings {
		list = append(list, Binding{Host: b.Host, Port: int(b.Port), Header: b.Header})
	}
	return list
}

func newPool(p pool.PoolStatus) Pool {
	members := make([]string, 0, len(p.Members))
	for _, m := range p.Members {
		members = append(members, m.Name)
	}
	return Pool{
		Name: p.Name, Strategy: Strategy(p.Strategy), Provider: p.Provider, Members: members,
		AuthResetTarget: p.AuthResetTarget, AgentProfile: p.AgentProfile, Container: p.Container, HoldSeconds: int64(p.Hold / time.Second),
		Bindings: newBindings(p.Bindings), State: PoolState(p.State), Active: p.Active, RecoversAt: instant(p.RecoversAt),
	}
}

func (s *Server) poolStatus(p pool.PoolStatus) PoolStatus {
	members := make([]Member, 0, len(p.Members))
	for _, m := range p.Members {
		members = append(members, Member{
			Name: m.Name, State: MemberState(m.State), Reason: m.Reason,
			Until: instant(m.Until), RemainingSeconds: secondsUntil(m.Until, s.now()),
		})
	}
	var held *AgentTokens
	if p.Agent != nil {
		held = &AgentTokens{AccessToken: p.Agent.AccessToken, RefreshToken: p.Agent.RefreshToken, IdToken: p.Agent.IDToken}
	}
	return PoolStatus{
		AgentTokens: held,
		Name:        p.Name, Strategy: Strategy(p.Strategy), Provider: p.Provider, Members: members,
		AuthResetTarget: p.AuthResetTarget, AgentProfile: p.AgentProfile, Container: p.Container, HoldSeconds: int64(p.Hold / time.Second),
		Bindings: newBindings(p.Bindings), State: PoolState(p.State), Active: p.Active, RecoversAt: instant(p.RecoversAt),
	}
}

// instant is nil for the zero time, which stands for "none".
func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// secondsUntil rounds up: who waits that long finds the instant passed.
func secondsUntil(t, now time.Time) int64 {
	if !t.After(now) {
		return 0
	}
	return int64(math.Ceil(t.Sub(now).Seconds()))
}
