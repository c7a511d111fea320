package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/intercept"
	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// gathering is a crowd client under `sluice run`.
type gathering struct {
	h    *house
	tell *json.Encoder
	hear *bufio.Scanner
	end  func()
}

// gather starts one; it ends with the test at the latest.
func (h *house) gather() *gathering {
	h.t.Helper()
	client := filepath.Join(h.dir, "crowd-client")
	if err := os.Symlink(h.path, client); err != nil && !os.IsExist(err) {
		h.t.Fatal(err)
	}
	cmd := h.agentFor(10*time.Minute, nil, h.path, "run", "--user", "root", "--", client)
	in, out, stderr := h.piped(cmd)
	ended := false
	g := &gathering{h: h, tell: json.NewEncoder(in), hear: bufio.NewScanner(out), end: func() {
		if ended {
			return
		}
		ended = true
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			h.t.Errorf("the crowd: %v: %s", err, stderr.String())
		}
	}}
	h.t.Cleanup(g.end)
	return g
}

// piped starts a command whose input and output are the caller's. What it says on stderr may be
// read once it has ended.
func (h *house) piped(cmd *exec.Cmd) (in io.WriteCloser, out io.Reader, stderr *bytes.Buffer) {
	h.t.Helper()
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	stderr = new(bytes.Buffer)
	cmd.Stderr = stderr
	if err := errors.Join(inErr, outErr); err != nil {
		h.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	return in, out, stderr
}

// order has something done with connections to the upstream.
func (g *gathering) order(o crowdOrder) crowdAnswer {
	g.h.t.Helper()
	o.Address = g.h.pair.ServerIP4 + ":443"
	if o.Host == "" {
		o.Host = loadHost
	}
	if o.Within == 0 {
		o.Within = time.Minute
	}
	if err := g.tell.Encode(o); err != nil {
		g.h.t.Fatal(err)
	}
	if !g.hear.Scan() {
		g.h.t.Fatalf("the crowd has ended: %v", g.hear.Err())
	}
	var fared crowdAnswer
	if err := json.Unmarshal(g.hear.Bytes(), &fared); err != nil {
		g.h.t.Fatalf("the crowd says %q: %v", g.hear.Text(), err)
	}
	return fared
}

// requestFor is a chat request to a host, with a body of its own.
func requestFor(host, body string) string {
	return fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", host, len(body), body)
}

// holding is what a daemon has besides memory: sockets, goroutines, flows that nobody took. Of other files it keeps
// some for the next who needs them, pipes and connections to the store.
type holding struct{ sockets, goroutines, flows int }

// sockets is how many the daemon has open.
func (h *house) sockets() (n int) {
	h.t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", h.daemon.cmd.Process.Pid))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, link := range links {
		if what, err := os.Readlink(link); err == nil && strings.HasPrefix(what, "socket:") {
			n++
		}
	}
	return n
}

func (h *house) holds() holding {
	h.t.Helper()
	families := h.scrape()
	value := func(name string) int {
		m := families[name].GetMetric()
		if len(m) != 1 {
			h.t.Fatalf("%d of %s", len(m), name)
		}
		return int(m[0].GetGauge().GetValue())
	}
	return holding{h.sockets(), value("go_goroutines"), value("sluice_flows")}
}

// nothingLeft waits until a daemon has no more than it had.
func (h *house) nothingLeft(before holding) {
	h.t.Helper()
	var now holding
	for deadline := time.Now().Add(startLimit); ; time.Sleep(100 * time.Millisecond) {
		now = h.holds()
		if now.sockets <= before.sockets && now.goroutines <= before.goroutines && now.flows <= before.flows {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("left over: there are %+v, and were %+v", now, before)
		}
	}
}

// rested is what a daemon has after it has served somebody, who has gone.
func (h *house) rested() holding {
	h.t.Helper()
	g := h.gather()
	g.order(crowdOrder{Do: crowdIdle, N: 2})
	g.order(crowdOrder{Do: "ask", Request: requestFor(loadHost, chatBody)})
	g.end()
	eventually(h.t, "the target is gone", func() bool { return !strings.Contains(h.sluice("", "targets", "-o", "json"), `"id"`) })
	time.Sleep(time.Second) // for what ends behind it
	return h.holds()
}

// normally is the median of what a normal agent waits for an answer.
func (g *gathering) normally() time.Duration {
	g.h.t.Helper()
	var took []time.Duration
	for range 30 {
		began := time.Now()
		if fared := g.order(crowdOrder{Do: "ask", Request: requestFor(loadHost, chatBody), Within: 20 * time.Second}); fared["200 OK"] != 1 || len(fared) != 1 {
			g.h.t.Fatalf("a normal agent's request: %v", fared)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// streamsOf makes streams of a credential's last, an event in a while.
func (h *house) streamsOf(credential string, interval time.Duration) {
	h.t.Helper()
	if err := h.sim.SetBehaviour(credential, simulator.Behaviour{Events: 1 << 20, Interval: simulator.Duration(interval)}); err != nil {
		h.t.Fatal(err)
	}
}

const claudeHost = "api.anthropic.com"

// streamOf is a request of a Claude agent's for a stream, with a prompt of some size.
func streamOf(size int) string {
	body := fmt.Sprintf(`{"model":"m","max_tokens":9,"stream":true,"messages":[{"role":"user","content":%q}]}`, strings.Repeat("x", size))
	return fmt.Sprintf("POST /v1/messages HTTP/1.1\r\nHost: %s\r\nAnthropic-Version: 2023-06-01\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", claudeHost, len(body), body)
}

// TestSlowCrowds: clients that never finish what they begin, and origins that never finish their answers, cost a
// normal agent no more than its share of a busy machine; what has a limit meets it, and nothing is left of them.
func TestSlowCrowds(t *testing.T) {
	each, origins := 30, 50
	long := os.Getenv("SLUICE_SOAK") != ""
	if long {
		each, origins = 400, 500
	}
	h := newHouse(t, nil)
	h.streamsOf("ant-first", 200*time.Millisecond)
	before := h.rested()
	normal := h.gather()
	normal.order(crowdOrder{Do: crowdIdle, N: 1})
	alone := normal.normally()

	limited, endless, slow := h.gather(), h.gather(), h.gather()
	ends, ended := crowdAnswer{"closed": 2 * each}, crowdAnswer{}
	withLimit := func(o crowdOrder) {
		for how, n := range limited.order(o) {
			ended[how] += n
		}
	}
	for _, kind := range []string{crowdHello, crowdClosed} {
		withLimit(crowdOrder{Do: kind, N: each})
	}
	if long { // the limit of a head is 30 s
		withLimit(crowdOrder{Do: crowdHead, N: each, Request: "GET /v1/models HTTP/1.1\r\nHost: " + loadHost + "\r\n"})
		ends["HTTP/1.1 408 Request Timeout"] = each
	} else {
		endless.order(crowdOrder{Do: crowdHead, N: each, Request: "GET /v1/models HTTP/1.1\r\nHost: " + loadHost + "\r\n"})
	}
	endless.order(crowdOrder{Do: crowdMute, N: each})
	endless.order(crowdOrder{Do: crowdBody, N: each, Request: "POST /v1/chat/completions HTTP/1.1\r\nHost: " + loadHost + "\r\nContent-Length: 1000\r\n\r\n"})
	if fared := slow.order(crowdOrder{Do: crowdStream, N: origins, Host: claudeHost, Request: streamOf(2000)}); fared["begun"] != origins {
		t.Errorf("of %d streams: %v", origins, fared)
	}
	beside := normal.normally()
	if most := h.holds(); most.sockets < before.sockets+4*each {
		t.Errorf("%+v with the crowd and %+v without: this proves nothing", most, before)
	}
	if beside > 10*alone+20*time.Millisecond {
		t.Errorf("a normal request took %s alone and %s beside the crowd", alone, beside)
	}
	t.Logf("beside %d slow clients and %d slow origins a request took %.1f times what it took alone (%s)", 5*each, origins, float64(beside)/float64(alone), alone)
	if withLimit(crowdOrder{Do: "wait"}); !maps.Equal(ended, ends) {
		t.Errorf("what has a limit ended as %v, want %v", ended, ends)
	}
	for _, g := range []*gathering{normal, limited, endless, slow} {
		g.end()
	}
	h.nothingLeft(before)
}

// TestOpenStreams holds streams on which nothing happens. A normal agent is served beside them, nothing is kept
// of what they have asked, and nothing is left of them.
func TestOpenStreams(t *testing.T) {
	streams := 200
	if os.Getenv("SLUICE_SOAK") != "" {
		files, err := intercept.OpenFiles()
		if err != nil {
			t.Fatal(err)
		}
		streams = min(10_000, files.Conns-100) // two descriptors each, of those that a daemon may have here
	}
	h := newHouse(t, nil)
	h.streamsOf("ant-first", time.Hour)
	before := h.rested()
	normal, idle := h.gather(), h.gather()
	normal.order(crowdOrder{Do: crowdIdle, N: 1})
	alone := normal.normally()
	if fared := idle.order(crowdOrder{Do: crowdStream, N: streams, Host: claudeHost, Request: streamOf(40_000)}); fared["begun"] != streams {
		t.Errorf("of %d streams: %v", streams, fared)
	}
	beside := normal.normally()
	if beside > 10*alone+20*time.Millisecond {
		t.Errorf("a normal request took %s alone and %s beside %d streams", alone, beside, streams)
	}
	if kept := read(h.scrape(), "replay_bytes"); kept != 0 {
		t.Errorf("%v bytes are kept of requests that nobody sends again", kept)
	}
	t.Logf("beside %d streams a request took %.1f times what it took alone (%s)", streams, float64(beside)/float64(alone), alone)
	normal.end()
	idle.end()
	h.nothingLeft(before)
}
