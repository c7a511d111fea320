package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/control/api"
)

// lasting is an agent that asks on the connection it has, and on a new one, each time it is told to.
const lasting = `
import http.client, os, ssl, sys
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
trusting = ssl._create_unverified_context()
def connect():
    return http.client.HTTPSConnection("api.openai.com", timeout=20, context=trusting)
def ask(c):
    try:
        c.request("GET", "/v1/models", headers={"Authorization": "Bearer sk-of-the-agent"})
        answer = c.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException) as e:
        return type(e).__name__
old = connect()
print(os.getpid(), "%s:%d" % (ask(old), old.sock.getsockname()[1]), flush=True)
for _ in sys.stdin:
    print(ask(old), ask(connect()), flush=True)
`

// lasting starts one in a cgroup that is not attached. ask tells what both connections were answered.
func (h *house) lasting(cgroup string) (pid, port int, ask func() string) {
	h.t.Helper()
	cmd := h.agent(nil, "python3", "-c", lasting, cgroup)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	lines, status := bufio.NewReader(out), 0
	if _, err := fmt.Fscanf(lines, "%d %d:%d\n", &pid, &status, &port); err != nil || status != 401 {
		h.t.Fatalf("before the attach it is answered %d: %v", status, err)
	}
	return pid, port, func() string {
		h.t.Helper()
		if _, err := io.WriteString(in, "\n"); err != nil {
			h.t.Fatal(err)
		}
		line, err := lines.ReadString('\n')
		if err != nil {
			h.t.Fatalf("the agent has ended: %v", err)
		}
		return strings.TrimSpace(line)
	}
}

// TestOlderConnectionsOfAnAttach attaches an agent that is connected already, in each way of asking for it.
func TestOlderConnectionsOfAnAttach(t *testing.T) {
	t.Parallel()
	needs(t, "python3", "curl")
	h := newHouse(t, nil)

	ways := map[string]func(cgroup string, keep bool) string{
		"as a table": func(cgroup string, keep bool) string {
			return h.sluice("", "attach", "--cgroup", cgroup, fmt.Sprintf("--keep-connections=%t", keep))
		},
		"as JSON": func(cgroup string, keep bool) string {
			return h.sluice("", "attach", "--cgroup", cgroup, fmt.Sprintf("--keep-connections=%t", keep), "-o", "json")
		},
		"by REST": func(cgroup string, keep bool) string {
			body, err := json.Marshal(map[string]any{"cgroup": cgroup, "keep_connections": keep})
			if err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("curl", "-sS", "-m", "30", "--unix-socket", h.socket, "-H", "Content-Type: application/json",
				"-d", string(body), "http://sluice/api/targets").Output()
			if err != nil {
				t.Fatal(err)
			}
			return string(out)
		},
	}
	for way, attach := range ways {
		for _, keep := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, keep=%t", way, keep), func(t *testing.T) {
				cgroup := kerneltest.Cgroup(t)
				pid, port, ask := h.lasting(cgroup)
				if got := ask(); got != "401 401" {
					t.Fatalf("before the attach: %s", got)
				}
				said := attach(cgroup, keep)
				fate, answer := "closed", "Error 200" // of what kind it is, TLS decides
				if keep {
					fate, answer = "kept", "401 200"
				}
				if got := ask(); !strings.HasSuffix(got, answer) {
					t.Errorf("its old connection and a new one are answered %s, want %s", got, answer)
				}
				if got := ask(); keep && got != answer {
					t.Errorf("later: %s, want %s", got, answer)
				}
				local, remote := fmt.Sprintf("%s:%d", h.pair.AgentIP4, port), h.pair.ServerIP4+":443"
				if way == "as a table" {
					named := fmt.Sprintf("tcp %s -> %s ESTAB, python3 (pid %d)", local, remote, pid)
					if !strings.Contains(said, "connections to bound ports that were there before: 1, "+fate+": ") || !strings.Contains(said, named) {
						t.Errorf("it says %q, want %q", said, named)
					}
					return
				}
				var made api.AttachedTarget
				if err := json.Unmarshal([]byte(said), &made); err != nil {
					t.Fatalf("%s: %v", said, err)
				}
				want := api.OlderConnection{
					Protocol: "tcp", Local: local, Remote: remote, State: "ESTAB", Pid: pid, Command: "python3", Fate: api.OlderConnectionFate(fate),
				}
				if len(made.Older) != 1 || made.Older[0] != want || made.Destroyed+made.Kept != 1 || (made.Kept == 1) != keep {
					t.Errorf("closed %d, kept %d, %+v, want %+v", made.Destroyed, made.Kept, made.Older, want)
				}
			})
		}
	}
}
