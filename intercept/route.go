package intercept

import (
	"github.com/sluice-proxy/sluice/intercept/sniff"
	"github.com/sluice-proxy/sluice/pool"
)

// Routes tells which pool serves a bound host. pool.Keeper is one.
type Routes interface {
	// Route looks up a canonical host and a port among the named pools; none named
	// means any.
	Route(host string, port uint16, pools []string) (pool.Route, bool)
	// Ports are the TCP ports of all bindings.
	Ports() []uint16
	// PortsChanged is closed at the next change of those.
	PortsChanged() <-chan struct{}
}

// verdict is what is done with a connection whose beginning has been seen.
type verdict uint8

const (
	verdictSplice    verdict = iota // pass it on untouched
	verdictTerminate                // end its TLS: the host is bound
	verdictRefuse                   // plain HTTP for a bound host: a credential never goes over plaintext
)

// decide is the rule. The port is the original destination's: a port in a Host field is
// the client's word only. Whatever cannot name a bound host is spliced, and so never gets
// a credential.
func decide(routes Routes, h sniff.Hello, port uint16, pools []string) (verdict, pool.Route) {
	name, bound := h.ServerName, verdictTerminate
	switch h.Kind {
	case sniff.KindTLS:
	case sniff.KindHTTP:
		name, bound = h.Host, verdictRefuse
	default:
		return verdictSplice, pool.Route{}
	}
	if name == "" {
		return verdictSplice, pool.Route{}
	}
	host, _, err := sniff.CanonicalHost(name)
	if err != nil {
		return verdictSplice, pool.Route{}
	}
	route, ok := routes.Route(host, port, pools)
	if !ok {
		return verdictSplice, pool.Route{}
	}
	return bound, route
}
