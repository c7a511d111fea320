package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// openFiles is how many descriptors the daemon has.
func (h *house) openFiles() int {
	h.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", h.daemon.cmd.Process.Pid)
	list, err := os.ReadDir(dir)
	if err != nil {
		h.t.Fatal(err)
	}
	n := 0
	for _, entry := range list {
		// The store opens as many readers as there are at a time, up to a few, and keeps them.
		if to, err := os.Readlink(filepath.Join(dir, entry.Name())); err == nil && !strings.Contains(to, "/sluice.db") {
			n++
		}
	}
	return n
}

// limitFiles changes the daemon's limit of open files as it runs, and returns what it was.
func (h *house) limitFiles(to uint64) (was uint64) {
	h.t.Helper()
	pid := h.daemon.cmd.Process.Pid
	var limit unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &limit); err != nil {
		h.t.Fatal(err)
	}
	was, limit.Cur = limit.Cur, to
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		h.t.Fatal(err)
	}
	return was
}

// TestAFullFileTable leaves the daemon without descriptors under load. Agents wait or are told
// what is the matter, no member is blamed, the log says it once; with descriptors to be had all
// goes on by itself, and none is left over.
func TestAFullFileTable(t *testing.T) {
	h := newHouse(t, nil)
	before := h.openFiles()
	const idle = 30
	g := h.gather()
	if fared := g.order(crowdOrder{Do: crowdIdle, N: idle}); len(fared) != 0 {
		t.Fatal(fared)
	}
	// Requests of which many are under way at a time: one connection to the upstream does not do for all.
	if err := h.sim.SetBehaviour("first", simulator.Behaviour{Delay: simulator.Duration(300 * time.Millisecond)}); err != nil {
		t.Fatal(err)
	}
	p := h.press(10, 40*time.Second)
	p.recovered()
	// From here on nothing new can be had: neither a client's connection nor one to the upstream.
	was := h.limitFiles(0)
	ask := crowdOrder{Do: "ask", Request: requestFor(loadHost, chatBody)}
	told := 0
	for how, n := range g.order(ask) {
		if strings.HasPrefix(how, "503 Service Unavailable sluice: no file descriptor is left for a connection to "+loadHost) {
			told += n
		} else if how != "200 OK" { // on a connection that waited for a request
			t.Errorf("%d were told: %s", n, how)
		}
	}
	if told < idle/2 {
		t.Errorf("only %d of %d were told why", told, idle)
	}
	time.Sleep(2 * time.Second)
	h.limitFiles(was)
	back := time.Now()
	if fared := g.order(ask); fared["200 OK"] != idle {
		t.Errorf("with descriptors to be had: %v", fared)
	}
	g.end()
	p.recovered()
	all, lost := p.end()
	for _, f := range lost {
		if f.Begun.After(back) {
			t.Errorf("lost with descriptors to be had: %s", f)
		} else if !strings.Contains(f.Error, "503 Service Unavailable: sluice: no file descriptor is left") {
			t.Errorf("lost, and not told why: %s", f)
		}
	}
	t.Logf("%d answered, the slowest after %s", all.Answered, all.Slowest)
	log := h.daemon.log.String()
	if begun, over := strings.Count(log, "connections are not accepted"), strings.Count(log, "connections are accepted again"); begun != 1 || over != 1 {
		t.Errorf("the log says %d times that nothing is accepted, and %d times that it is again", begun, over)
	}
	if events := h.sluice("", "events"); strings.Contains(events, "cred_failover") || strings.Contains(events, "pool_exhausted") {
		t.Errorf("a member was blamed: %s", events)
	}
	eventually(t, "no descriptor is left", func() bool { return h.openFiles() <= before })
}
