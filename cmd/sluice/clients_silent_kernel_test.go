package main

import (
	"encoding/json"
	"net"
	"os/exec"
	"testing"

	"github.com/sluice-proxy/sluice/intercept/netns"
)

// TestSilentClients has clients stop where the other side waits for them. Each is
// let go after its limit, and counted by what it left out.
func TestSilentClients(t *testing.T) {
	t.Parallel() // it waits for half a minute, and does nothing meanwhile
	h := newHouse(t, nil)
	const silent = "10.77.0.9"
	h.listenSilently(silent)
	var ends map[string]struct {
		How     string
		Seconds float64
	}
	got := h.output("python3", script(t, "silent.py"), h.pair.ServerIP4, silent)
	if err := json.Unmarshal([]byte(got), &ends); err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	for _, c := range []struct {
		name    string
		how     string
		seconds float64 // the limit that the package's options name
	}{
		{"nothing", "closed", 30},
		{"half_a_hello", "closed", 10},
		{"half_a_plain_head", "closed", 10},
		{"half_a_head", "HTTP/1.1 408 Request Timeout", 30},
	} {
		end := ends[c.name]
		if end.How != c.how || end.Seconds < c.seconds-1 || end.Seconds > c.seconds+5 {
			t.Errorf("%s: %q after %.1f s, want %q after %.0f s", c.name, end.How, end.Seconds, c.how, c.seconds)
		}
	}
	var status struct{ Counters map[string]uint64 }
	if err := json.Unmarshal([]byte(h.sluice("", "status", "-o", "json")), &status); err != nil {
		t.Fatal(err)
	}
	for cause, want := range map[string]uint64{"intercept.silent": 1, "intercept.slow": 2, "intercept.terminated": 1} {
		if n := status.Counters[cause]; n != want {
			t.Errorf("%s was counted %d times, want %d: %v", cause, n, want, status.Counters)
		}
	}
	if entries := h.sim.Journal().Entries(); len(entries) != 0 {
		t.Errorf("the upstream saw %+v", entries)
	}
}

// listenSilently accepts connections at another address of the server's and says nothing.
func (h *house) listenSilently(ip string) {
	h.t.Helper()
	if out, err := exec.Command("nsenter", "--net="+h.pair.Server, "ip", "addr", "add", ip+"/32", "dev", "lo").CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
	ns, err := netns.Open(h.pair.Server)
	if err != nil {
		h.t.Fatal(err)
	}
	defer ns.Close()
	listener, err := ns.Listen(h.t.Context(), "tcp4", net.JoinHostPort(ip, "443"))
	if err != nil {
		h.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	h.t.Cleanup(func() {
		listener.Close()
		<-done
	})
}
