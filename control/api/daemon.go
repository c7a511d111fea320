package api

import (
	"net/http"

	"github.com/sluice-proxy/sluice/control"
	"github.com/sluice-proxy/sluice/pool"
)

// GetHealth answers GET /healthz.
func (s *Server) GetHealth(w http.ResponseWriter, r *http.Request) {
	if s.streams.Err() != nil {
		fail(w, r, s.log, &pool.Error{Code: pool.CodeUnavailable, Message: "the daemon is stopping"})
		return
	}
	write(w, http.StatusOK, Health{Status: Ok})
}

// GetMetrics answers GET /metrics.
func (s *Server) GetMetrics(w http.ResponseWriter, r *http.Request) { s.metrics.ServeHTTP(w, r) }

// GetDocument answers GET /api/openapi.yaml.
func (s *Server) GetDocument(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/openapi+yaml")
	// An error here is the client's having gone: there is nobody to tell.
	_, _ = w.Write(control.Document)
}

// GetCA answers GET /api/ca.
func (s *Server) GetCA(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/x-pem-file")
	_, _ = w.Write(s.ops.CA())
}

// GetStatus answers GET /api/status.
func (s *Server) GetStatus(w http.ResponseWriter, r *http.Request) {
	status, err := s.ops.Status(r.Context())
	s.answer(w, r, http.StatusOK, newStatus(status), err)
}

func newStatus(s control.Status) Status {
	counts := PoolCounts{
		Healthy: s.Pools[pool.StateHealthy], Degraded: s.Pools[pool.StateDegraded], Exhausted: s.Pools[pool.StateExhausted],
	}
	counts.Total = counts.Healthy + counts.Degraded + counts.Exhausted
	return Status{
		Build:     Build{Version: s.Build.Version, Commit: s.Build.Commit, Date: s.Build.Date, Go: s.Build.Go},
		StartedAt: s.StartedAt, UptimeSeconds: int64(s.Uptime.Seconds()), StateDir: s.StateDir, PinDir: s.PinDir,
		Adopted: s.Adopted, Pools: counts, Targets: s.Targets, Connections: s.Connections, Flows: s.Flows, Counters: s.Counters,
	}
}
