package api

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/sluice-proxy/sluice/reset"
)

// SetAuthResetTarget answers POST /api/pools/{name}/auth-reset-target.
func (s *Server) SetAuthResetTarget(w http.ResponseWriter, r *http.Request, name PoolName, p SetAuthResetTargetParams) {
	spec, err := decode[AuthResetTargetSpec](r)
	if err != nil {
		fail(w, r, s.log, err)
		return
	}
	status, err := s.ops.SetAuthResetTarget(r.Context(), seen(r, p.IfMatch), name, spec.Target)
	s.answerPool(w, r, status, err)
}

// ResetAgent answers POST /api/pools/{name}/reset-agent.
func (s *Server) ResetAgent(w http.ResponseWriter, r *http.Request, name PoolName) {
	spec, err := decode[ResetSpec](r)
	if err != nil {
		fail(w, r, s.log, err)
		return
	}
	dryRun := deref(spec.DryRun)
	outcomes, err := s.ops.ResetAgents(r.Context(), actor(r), name, dryRun)
	report := ResetReport{Pool: name, DryRun: dryRun, Agents: make([]AgentReset, 0, len(outcomes))}
	for _, o := range outcomes {
		report.Agents = append(report.Agents, newAgentReset(o))
	}
	s.answer(w, r, http.StatusOK, report, err)
}

func newAgentReset(o reset.Outcome) AgentReset {
	a := AgentReset{
		Agent: o.Agent.Called(), Kind: AgentResetKind(o.Agent.Kind), Argv: []string{}, Environment: []string{},
		Ran: o.Ran, Succeeded: o.Succeeded(), Output: strings.ToValidUTF8(string(o.Result.Output), "\uFFFD"), Reason: o.Reason,
		TimeoutSeconds: int64(o.Command.Timeout / time.Second),
	}
	if len(o.Command.Argv) > 0 {
		a.Argv, a.Environment = o.Command.Argv, o.EnvironmentNames()
		a.User = fmt.Sprintf("%d:%d", o.Command.UID, o.Command.GID)
	}
	if o.Ended() {
		status := o.Result.ExitCode
		a.Status = &status
	}
	return a
}
