package pool

import (
	"maps"
	"slices"
)

// Route returns the pool that serves a host, given in its canonical form. Of
// several, a target that names its pools gets the first of those, any other the
// one that was made first. A host where accounts are refreshed only has the first pool
// of those accounts, and its route is bare.
func (k *Keeper) Route(host string, port uint16, pools []string) (Route, bool) {
	v, at := k.view.Load(), hostPort{host, port}
	if p := v.first(v.routes[at], pools, func(p *poolView) bool { return p.binding(host, port) >= 0 }); p != nil {
		return Route{Pool: p.pool.Name, Host: host, Port: port, Provider: p.pool.Provider, Tokens: len(v.endpoints[at]) > 0}, true
	}
	if p := v.first(v.endpoints[at], pools, func(p *poolView) bool { return slices.Contains(p.refresh, at) }); p != nil {
		return Route{Pool: p.pool.Name, Host: host, Port: port, Tokens: true, Bare: true}, true
	}
	return Route{}, false
}

// first is the oldest of all, or of the named ones those that serve. They are asked for
// by their names: of one host there may be as many pools as there are tenants.
func (v *view) first(all []*poolView, named []string, serves func(*poolView) bool) *poolView {
	if len(named) == 0 {
		if len(all) == 0 {
			return nil
		}
		return all[0]
	}
	var oldest *poolView
	for _, name := range named {
		if p := v.pools[name]; p != nil && serves(p) && (oldest == nil || p.place < oldest.place) {
			oldest = p
		}
	}
	return oldest
}

// bound are all hosts and ports that a connection may be terminated for.
func (v *view) bound() []hostPort {
	return append(slices.Collect(maps.Keys(v.routes)), slices.Collect(maps.Keys(v.endpoints))...)
}

// Ports returns the bound TCP ports, ascending.
func (k *Keeper) Ports() []uint16 {
	var ports []uint16
	for _, at := range k.view.Load().bound() {
		ports = append(ports, at.port)
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// Hosts returns the bound hosts, sorted.
func (k *Keeper) Hosts() []string {
	var hosts []string
	for _, at := range k.view.Load().bound() {
		hosts = append(hosts, at.host)
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}
