package main

import (
	"maps"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// vanish has a firewall drop what a namespace sends by a link, silently, until the returned function is called.
func vanish(t *testing.T, netns, link string) (back func()) {
	t.Helper()
	nft := func(command string) {
		if out, err := exec.Command("nsenter", "--net="+netns, "nft", command).CombinedOutput(); err != nil {
			t.Fatalf("nft %s: %v: %s", command, err, out)
		}
	}
	nft("add table inet vanish")
	nft("add chain inet vanish out { type filter hook output priority 0; }")
	nft("add rule inet vanish out oifname " + link + " drop")
	return func() { nft("delete table inet vanish") }
}

// happens waits for what has to happen in a time, and says how long it took.
func happens(t *testing.T, limit time.Duration, what string, done func() bool) {
	t.Helper()
	began := time.Now()
	for !done() {
		if time.Since(began) > limit {
			t.Fatalf("not within %s: %s", limit, what)
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("%s: after %s", what, time.Since(began).Round(100*time.Millisecond))
}

// TestVanishedPeers has first the origin and then the agents fall silent, with their packets dropped. What waits for
// them is over after its time, and nothing is left.
func TestVanishedPeers(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil, `vanished_after = "4s"`)
	before := h.rested()
	t.Run("upstream", func(t *testing.T) { h.vanishedUpstream(t, 4*time.Second) })
	h.nothingLeft(before)
	t.Run("client", h.vanishedClient)
	h.nothingLeft(before)
}

// vanishedUpstream is an origin under streams on which nothing is under way, and under requests on connections that are
// kept: vanished_after holds for both.
func (h *house) vanishedUpstream(t *testing.T, limit time.Duration) {
	const kept, streams = 5, 20
	h.streamsOf("ant-first", time.Hour)
	asking, idle := h.gather(), h.gather()
	ask := crowdOrder{Do: "ask", Request: requestFor(loadHost, chatBody), Within: 30 * time.Second}
	asking.order(crowdOrder{Do: crowdIdle, N: kept})
	if fared := asking.order(ask); fared["200 OK"] != kept {
		t.Fatalf("requests: %v", fared)
	}
	if fared := idle.order(crowdOrder{Do: crowdStream, N: streams, Host: claudeHost, Request: streamOf(100)}); fared["begun"] != streams {
		t.Fatalf("streams: %v", fared)
	}
	with := h.sockets()
	back := vanish(t, h.pair.Server, "eth0")
	began := time.Now()
	fared := asking.order(ask)
	took := time.Since(began)
	for how, n := range fared {
		if !strings.HasPrefix(how, "504 ") || !strings.Contains(how, loadHost) {
			t.Errorf("%d requests to an upstream that has vanished were answered %q", n, how)
		}
	}
	// A request that finds no kept connection, since others were quick enough to share theirs before, has to connect, which has 15 s.
	if took < limit/2 || took > limit+20*time.Second {
		t.Errorf("they were answered after %s, want about %s", took, limit)
	}
	happens(t, 3*limit, "the streams' upstreams are given up", func() bool { return h.sockets() <= with-2*streams })
	asking.end()
	idle.end()
	back()
}

// vanishedClient is an agents' namespace that drops what its loopback carries. Answers that are not acknowledged are
// given up when the kernel gives them up (net.ipv4.tcp_retries2), and their upstreams with them. What nothing is under
// way for is found by keep-alive, 150 s after it was last heard of, which takes SLUICE_SOAK.
func (h *house) vanishedClient(t *testing.T) {
	const streams, idle = 20, 5
	h.streamsOf("ant-first", 100*time.Millisecond)
	if err := kerneltest.In(h.pair.Agent, func() error {
		return os.WriteFile("/proc/sys/net/ipv4/tcp_retries2", []byte("3"), 0) // three seconds
	}); err != nil {
		t.Fatal(err)
	}
	g := h.gather()
	g.order(crowdOrder{Do: crowdIdle, N: idle})
	quiet := h.sockets()
	if fared := g.order(crowdOrder{Do: crowdStream, N: streams, Host: claudeHost, Request: streamOf(100)}); !maps.Equal(fared, crowdAnswer{"begun": streams}) {
		t.Fatalf("streams: %v", fared)
	}
	if with := h.sockets(); with < quiet+2*streams {
		t.Fatalf("%d sockets with streams and %d without: this proves nothing", with, quiet)
	}
	back := vanish(t, h.pair.Agent, "lo")
	happens(t, 20*time.Second, "unacknowledged answers are given up", func() bool { return h.sockets() <= quiet })
	if os.Getenv("SLUICE_SOAK") != "" {
		happens(t, 180*time.Second, "idle ones are given up", func() bool { return h.sockets() <= quiet-idle })
	}
	back()
	g.end()
}
