package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// work is one kind of load.
type work struct {
	name, group string // by which -work selects it
	title       string
	columns     []column
	args        []string // of the clients
	among       []string // whom it is for; nil: everybody
	host        string   // that the clients ask for; "": the one that a pool is bound to
	counted     bool     // the clients end by themselves: a length in seconds means nothing
}

const (
	interval = "20ms" // between two events of a stream: 50 a second
	// freshHosts is how many hosts without a leaf each round's new connections ask for. A
	// pool has no more than 64.
	freshHosts = 50
	// idleStreams is how many streams there are on which nothing happens, if so many files may be open.
	idleStreams = 10000
)

// works is everything that is measured, in its order.
func works() []work {
	var all []work
	add := func(w work) { all = append(all, w) }
	for _, proto := range []string{"h1", "h2"} {
		version := map[string]string{"h1": "HTTP/1.1", "h2": "HTTP/2"}[proto]
		for _, n := range []int{1, 16, 256} {
			group := "small"
			if proto == "h2" {
				group = "h2"
			}
			add(work{
				name: fmt.Sprintf("%s-%d", proto, n), group: group, columns: ofRequests,
				title: fmt.Sprintf("Small requests, %s over TLS, %d kept alive", version, n),
				args:  []string{"-do", proto, "-connections", strconv.Itoa(n)},
			})
		}
	}
	add(work{
		name: "body-40k", group: "bodies", columns: ofRequests, title: "Requests with a body of 40 KB of JSON, HTTP/1.1, 16 connections",
		args: []string{"-do", "h1", "-connections", "16", "-up", "40000"},
	})
	for _, n := range []int{200, 2000} {
		add(work{
			name: fmt.Sprintf("streams-%d", n), group: "streams", columns: ofStreams,
			title: fmt.Sprintf("%d event streams, 50 events a second each: how late an event is read", n),
			args:  []string{"-do", "streams", "-connections", strconv.Itoa(n), "-interval", interval},
		})
	}
	for _, size := range []int{1, 64} {
		n := map[int]int{1: 4, 64: 2}[size]
		for _, way := range []string{"down", "up"} {
			add(work{
				name: fmt.Sprintf("%s-%dm", way, size), group: "bodies", columns: ofBytes,
				title: fmt.Sprintf("Bodies of %d MiB, %s, %d connections", size, map[string]string{"down": "answered", "up": "sent"}[way], n),
				args:  []string{"-do", "h1", "-connections", strconv.Itoa(n), "-" + way, strconv.Itoa(size << 20)},
			})
		}
	}
	add(work{
		name: "new", group: "handshakes", columns: ofRequests, title: "A new connection for each request, 4 at a time",
		args: []string{"-do", "new", "-connections", "4"},
	})
	mints := []string{sluiceName, "mitmproxy"}
	add(work{
		name: "new-cold", group: "handshakes", columns: ofRequests, among: mints, host: freshHost, counted: true,
		title: "A new connection for each request, each to a host that a leaf has to be made for",
		args:  []string{"-do", "new", "-connections", "4", "-hosts", strconv.Itoa(freshHosts)},
	})
	add(work{
		name: "new-warm", group: "handshakes", columns: ofRequests, among: mints, host: freshHost, counted: true,
		title: "The same hosts once more: their leaves are there",
		args:  []string{"-do", "new", "-connections", "4", "-hosts", strconv.Itoa(freshHosts)},
	})
	unbound := []string{directName, sluiceName}
	for _, way := range []string{"down", "up"} {
		add(work{
			name: "spliced-" + way, group: "spliced", columns: ofBytes, among: unbound, host: unboundHost,
			title: fmt.Sprintf("A host without a pool: bodies of 64 MiB, %s, 2 connections", map[string]string{"down": "answered", "up": "sent"}[way]),
			args:  []string{"-do", "h1", "-connections", "2", "-" + way, strconv.Itoa(64 << 20)},
		})
	}
	add(work{
		name: "spliced-h1", group: "spliced", columns: ofRequests, among: unbound, host: unboundHost,
		title: "A host without a pool: small requests, HTTP/1.1, 16 connections",
		args:  []string{"-do", "h1", "-connections", "16"},
	})
	add(work{
		name: "connect", group: "connect", columns: ofConnects, among: unbound, counted: true,
		title: "connect(2) to a bound port, with the hook and without",
		args:  []string{"-do", "connect", "-connections", "2000"},
	})
	add(work{name: "idle", group: "idle", columns: ofIdle, among: []string{sluiceName, "nginx", "haproxy", "net/http"}})
	return fit(all, idleStreams)
}

// fit makes the work of idle streams one of n.
func fit(all []work, n int) []work {
	for i := range all {
		if w := &all[i]; w.name == "idle" {
			w.title = fmt.Sprintf("%d event streams on which nothing happens: memory", n)
			w.args = []string{"-do", "streams", "-connections", strconv.Itoa(n), "-interval", "1h"}
		}
	}
	return all
}

// chosen picks works by their names or groups.
func chosen(all []work, names string) ([]work, error) {
	if names == "" {
		return all, nil
	}
	var picked []work
	found := make(map[string]bool)
	wanted := strings.Split(names, ",")
	for _, w := range all {
		named, grouped := slices.Contains(wanted, w.name), slices.Contains(wanted, w.group)
		found[w.name], found[w.group] = true, true
		if named || grouped {
			picked = append(picked, w)
		}
	}
	for _, name := range wanted {
		if !found[name] {
			return nil, fmt.Errorf("there is no work %q: -list lists them", name)
		}
	}
	return picked, nil
}
