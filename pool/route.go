package pool

import "slices"

// Route returns the pool that serves a host, given in its canonical form. Of
// several, a target that names its pools gets the first of those, any other the
// one that was made first. A host where accounts are refreshed only has the first pool
// of those accounts, and its route is bare.
func (k *Keeper) Route(host string, port uint16, pools []string) (Route, bool) {
	v, at := &k.view, hostPort{host, port}
	if p := v.first(&v.routes, at, pools, func(p *poolView) bool { return p.binding(host, port) >= 0 }); p != nil {
		return Route{Pool: p.pool.Name, Host: host, Port: port, Provider: p.pool.Provider, Tokens: v.endpoints.first(at) != nil}, true
	}
	if p := v.first(&v.endpoints, at, pools, func(p *poolView) bool { return slices.Contains(p.refresh, at) }); p != nil {
		return Route{Pool: p.pool.Name, Host: host, Port: port, Tokens: true, Bare: true}, true
	}
	return Route{}, false
}

// first is the oldest of the pools that share a host, or of the named ones that serve it. Those are asked for
// by their names: of one host there may be as many pools as there are tenants.
func (v *view) first(all *sharing[hostPort], at hostPort, named []string, serves func(*poolView) bool) *poolView {
	if len(named) == 0 {
		return all.first(at)
	}
	var oldest *poolView
	for _, name := range named {
		if p := v.pool(name); p != nil && serves(p) && (oldest == nil || p.id < oldest.id) {
			oldest = p
		}
	}
	return oldest
}

// Ports returns the bound TCP ports, ascending.
func (k *Keeper) Ports() []uint16 { return slices.Sorted(k.view.ports.keys()) }

// PortsChanged returns a channel that is closed when other ports are bound after this call.
func (k *Keeper) PortsChanged() <-chan struct{} { return k.view.moved.wait() }

// Hosts returns the bound hosts, sorted.
func (k *Keeper) Hosts() []string {
	var hosts []string
	for _, s := range []*sharing[hostPort]{&k.view.routes, &k.view.endpoints} {
		for at := range s.keys() {
			hosts = append(hosts, at.host)
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}
