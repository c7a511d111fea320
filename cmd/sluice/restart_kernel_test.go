package main

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// pressure is a load client under `sluice run`.
type pressure struct {
	h     *house
	in    io.Closer
	ended chan error

	mu   sync.Mutex
	now  loaded
	lost []lostRequest
}

// press starts one; it ends with the test at the latest.
func (h *house) press(rate int, limit time.Duration) *pressure {
	h.t.Helper()
	client := filepath.Join(h.dir, "load-client")
	if err := os.Symlink(h.path, client); err != nil && !os.IsExist(err) {
		h.t.Fatal(err)
	}
	order, err := json.Marshal(loadOrder{Address: h.pair.ServerIP4 + ":443", Rate: rate, Limit: limit})
	if err != nil {
		h.t.Fatal(err)
	}
	cmd := h.agentFor(10*time.Minute, nil, h.path, "run", "--user", "root", "--", client, string(order))
	p := &pressure{h: h, ended: make(chan error, 1)}
	in, out, stderr := h.piped(cmd)
	p.in = in
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.mu.Lock()
			p.now.Failed = nil
			if err := json.Unmarshal(lines.Bytes(), &p.now); err != nil {
				h.t.Errorf("the load client says %q: %v", lines.Text(), err)
			}
			p.lost = append(p.lost, p.now.Failed...)
			p.mu.Unlock()
		}
		err := cmd.Wait()
		if stderr.Len() > 0 {
			h.t.Logf("the load client says: %s", stderr.String())
		}
		p.ended <- err
	}()
	h.t.Cleanup(func() { _ = in.Close() })
	return p
}

func (p *pressure) state() loaded {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// recovered waits until as much was answered as waits now, and more.
func (p *pressure) recovered() {
	p.h.t.Helper()
	from := p.state()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		now := p.state()
		if now.Answered > from.Answered+from.Waiting {
			return
		}
		if time.Now().After(deadline) {
			p.h.t.Fatalf("the load is not coped with: %+v", now)
		}
	}
}

// end ends the client once all is answered, and returns what it has seen.
func (p *pressure) end() (all loaded, lost []lostRequest) {
	p.h.t.Helper()
	_ = p.in.Close()
	select {
	case err := <-p.ended:
		if err != nil {
			p.h.t.Errorf("the load client: %v", err)
		}
	case <-time.After(time.Minute):
		p.h.t.Fatal("the load client does not end")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now.Answered+len(p.lost) != p.now.Sent {
		p.h.t.Errorf("of %d requests %d were answered and %d lost", p.now.Sent, p.now.Answered, len(p.lost))
	}
	return p.now, p.lost
}

// endWhole is end for a load of which nothing may be lost that was begun since an instant, but for one request in each
// restart that was sent on a connection that was just being closed.
func (p *pressure) endWhole(since time.Time, restarts int) loaded {
	p.h.t.Helper()
	all, lost := p.end()
	lost = slices.DeleteFunc(lost, func(f lostRequest) bool {
		if restarts > 0 && closedAsItWasSent(f) {
			restarts--
			p.h.t.Logf("closed as it was sent: %s", f)
			return true
		}
		return f.Begun.Before(since)
	})
	for i, f := range lost {
		if i == 20 {
			p.h.t.Errorf("and %d more", len(lost)-i)
			break
		}
		p.h.t.Errorf("lost: %s", f)
	}
	return all
}

// newManagedHouse is a house whose daemon is under a manager, and has time for what it is doing when it ends.
func newManagedHouse(t *testing.T, config ...string) (*house, *serviceManager) {
	t.Helper()
	h := newHouse(t, nil, config...)
	for _, name := range []string{"first", "second"} {
		if err := h.sim.SetBehaviour(name, simulator.Behaviour{Events: 4, Interval: simulator.Duration(50 * time.Millisecond)}); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(h.dir, "config.toml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	h.write("config.toml", strings.Replace(string(text), `drain_time = "1s"`, `drain_time = "10s"`, 1))
	return h, managed(h)
}

// closedAsItWasSent says of a lost request that its connection, kept from an earlier one, was closed at the
// moment in which it was sent: a server that closes a quiet connection cannot exclude that (RFC 9112 section 9.3.1).
func closedAsItWasSent(f lostRequest) bool {
	return (f.Kind == "kept" || f.Kind == "stream") && (f.Error == "answer: unexpected EOF" || strings.HasSuffix(f.Error, "connection reset by peer"))
}

// TestRestartsLoseNothing restarts the daemon under load: connections of their own, kept ones, streams and HTTP/2. No
// connect is refused, nothing is cut off. With SLUICE_SOAK it is twenty times under 500 requests a second.
func TestRestartsLoseNothing(t *testing.T) {
	rate, restarts, limit := 100, 4, time.Minute
	if os.Getenv("SLUICE_SOAK") != "" {
		rate, restarts = 500, 20
	}
	h, m := newManagedHouse(t)
	began := time.Now()
	p := h.press(rate, limit)
	p.recovered()
	for range restarts {
		m.restart()
		p.recovered()
	}
	took := time.Since(began)
	got, lost := p.end()
	unlucky := 0
	for _, f := range lost {
		if closedAsItWasSent(f) {
			unlucky++
			t.Logf("closed as it was sent: %s", f)
			continue
		}
		t.Errorf("lost: %s", f)
	}
	// One a restart: a machine that is busy otherwise asks in bursts, which reach down to the connections that fell quiet.
	if unlucky > restarts+got.Answered/10000 {
		t.Errorf("%d of %d requests were sent on connections that were just being closed", unlucky, got.Sent)
	}
	t.Logf("%d requests (%.0f/s) on %d connections over %d restarts in %s, the slowest took %s",
		got.Answered, float64(got.Answered)/took.Seconds(), got.Connects, restarts, took.Round(time.Second), got.Slowest.Round(time.Millisecond))
	if got.Answered < 100*restarts { // a machine that is busy otherwise does less than it is asked for
		t.Errorf("only %d requests: this proves nothing", got.Answered)
	}
}
