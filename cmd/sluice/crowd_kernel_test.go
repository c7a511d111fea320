package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
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
	in, err := cmd.StdinPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
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
