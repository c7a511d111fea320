package simulator

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// newGRPC serves grpc.health.v1.Health: Check is a unary call, Watch a stream,
// and an unknown service name gives NOT_FOUND in the trailers.
func newGRPC() (*grpc.Server, func()) {
	status := health.NewServer()
	status.SetServingStatus("simulator", grpc_health_v1.HealthCheckResponse_SERVING)
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, status)
	return server, func() {
		status.Shutdown()
		server.Stop()
	}
}
