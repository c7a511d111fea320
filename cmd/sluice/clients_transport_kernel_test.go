package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// maxLate is how late an event of a stream may be.
const maxLate = 50 * time.Millisecond

func TestWebSocketClient(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	talk := func() {
		t.Helper()
		got := h.output("node", script(t, "websocket.mjs"), sdk(t, "openai.mjs"))
		if want := "text true echo\nbinary true echo\nclosed 1000\n"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	talk()
	if e := h.seen(0, 1)[0]; e.Upgraded != "websocket" || e.Frames != 2 || e.Credential != "first" {
		t.Errorf("%+v", e)
	}
	h.spend("first")
	talk()
	entries := h.seen(1, 2)
	if e := entries[0]; e.Credential != "first" || e.Status != 429 || e.Upgraded != "" {
		t.Errorf("%+v", e)
	}
	if e := entries[1]; e.Credential != "second" || e.Upgraded != "websocket" || e.Frames != 2 {
		t.Errorf("%+v", e)
	}
}

// grpcClient is a command of the tests: a unary call, a stream and an error in trailers.
func grpcClient() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+os.Getenv("OPENAI_API_KEY"))
	conn, err := grpc.NewClient("api.openai.com:443", grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{})))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	defer conn.Close()
	client := grpc_health_v1.NewHealthClient(conn)
	answer, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "simulator"})
	fmt.Println("check", answer.GetStatus(), err)
	_, err = client.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "nonesuch"})
	fmt.Println("unknown", status.Code(err) == codes.NotFound)
	watch, err := client.Watch(ctx, &grpc_health_v1.HealthCheckRequest{Service: "simulator"})
	if err == nil {
		answer, err = watch.Recv()
	}
	fmt.Println("watch", answer.GetStatus(), err)
}

func TestGRPCClient(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	client := filepath.Join(h.dir, "grpc-client")
	if err := os.Symlink(self, client); err != nil {
		t.Fatal(err)
	}
	if got, want := h.output(client), "check SERVING <nil>\nunknown true\nwatch SERVING <nil>\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for _, e := range h.seen(0, 3) {
		if e.Credential != "first" || e.Proto != "HTTP/2.0" || e.Header.Get("Te") != "trailers" {
			t.Errorf("%+v", e)
		}
	}
}

// TestOtherHostsAreLeftAlone compares what a client is shown with what the server shows.
func TestOtherHostsAreLeftAlone(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	leaf, err := h.sim.Authority().Leaf("unbound.example")
	if err != nil {
		t.Fatal(err)
	}
	needs(t, "openssl", "curl")
	show := `echo | openssl s_client -connect ` + h.pair.ServerIP4 + `:443 -servername "$0" -alpn h2 2>/dev/null | openssl x509 -noout -fingerprint -sha256`
	got := h.output("sh", "-c", show, "unbound.example")
	if want := fingerprint(leaf.Certificate[0]); !strings.Contains(got, want) {
		t.Errorf("the client was shown %s, the server showed %s", got, want)
	}
	if bound := h.output("sh", "-c", show, "api.openai.com"); !strings.Contains(bound, "=") || strings.Contains(bound, got) {
		t.Errorf("a bound host's certificate is not ours: %s", bound)
	}
	// The agent's own key goes where the agent sends it.
	h.output("curl", "-sS", "-k", "--max-time", "10", "https://unbound.example/echo", "-H", "Authorization: Bearer its-own")
	entries := h.sim.Journal().Entries()
	last := entries[len(entries)-1]
	if last.Host != "unbound.example" || last.Credential != "" || len(last.Presented) != 1 || last.Remote[:strings.LastIndex(last.Remote, ":")] != h.pair.AgentIP4 {
		t.Errorf("%+v", last)
	}
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return strings.ReplaceAll(strings.ToUpper(fmt.Sprintf("% x", sum[:])), " ", ":")
}

// TestLoopbackIsLeftAlone asks a server of the agent's own on a bound port.
func TestLoopbackIsLeftAlone(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	needs(t, "python3", "curl")
	got := h.output("sh", "-c", `mkdir www && echo its-own > www/index.html && cd www || exit 1
python3 -m http.server --bind 127.0.0.1 443 >/dev/null 2>&1 & server=$!
for i in $(seq 100); do curl -sS --max-time 5 http://127.0.0.1:443/ 2>/dev/null && break; sleep 0.05; done
kill $server`)
	if got != "its-own\n" {
		t.Errorf("%q", got)
	}
	if n := len(h.sim.Journal().Entries()); n != 0 {
		t.Errorf("the upstream saw %d requests", n)
	}
}

// schedule sets how a process's threads get the processors. What is measured here is
// sluice, not the tests of other packages that run at the same time.
func schedule(t *testing.T, pid int, policy, priority uint32) {
	t.Helper()
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		tid, err := strconv.Atoi(thread.Name())
		if err != nil {
			t.Fatal(err)
		}
		attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy, Priority: priority}
		if err := unix.SchedSetAttr(tid, &attr, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			t.Logf("thread %d is not preferred: %v", tid, err)
		}
	}
}

// TestTenThousandEvents reads events that are sent two thousand a second.
func TestTenThousandEvents(t *testing.T) {
	h := newHouse(t, nil)
	needs(t, "chrt")
	for _, pid := range []int{os.Getpid(), h.daemon.cmd.Process.Pid} {
		schedule(t, pid, unix.SCHED_RR, 1)
		defer schedule(t, pid, unix.SCHED_NORMAL, 0)
	}
	got := h.output("chrt", "--rr", "1", "python3", script(t, "events.py"), "10000", "500us")
	var seen struct {
		Events   int
		LatestMS float64 `json:"latest_ms"`
		MedianMS float64 `json:"median_ms"`
	}
	if err := json.Unmarshal([]byte(got), &seen); err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	if seen.Events != 10000 || seen.LatestMS > float64(maxLate.Milliseconds()) {
		t.Errorf("%d events, the latest %.1f ms late", seen.Events, seen.LatestMS)
	}
	t.Logf("median %.2f ms, latest %.1f ms", seen.MedianMS, seen.LatestMS)
}

// TestHangUp has clients go away in the middle, while their agent lives on: the
// upstream learns of it at once.
func TestHangUp(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	needs(t, "curl")
	ask, end := h.converse(`while read -r version path; do
	curl -sS -o /dev/null --max-time 0.5 "$version" "https://api.openai.com$path" 2>/dev/null
	date +%s%N
done`)
	for _, version := range []string{"--http1.1", "--http2"} {
		for _, path := range []string{"/hang", "/hang?header=1", "/stream?events=100000&interval=10ms"} {
			before := h.sim.Journal().Last()
			gone, err := strconv.ParseInt(ask(version+" "+path), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			entries, err := h.sim.Journal().Wait(ctx, before, func(all []simulator.Entry) bool {
				return len(all) == 1 && all[0].Cancelled && !all[0].Ended.IsZero()
			})
			cancel()
			if err != nil {
				t.Errorf("%s %s: the upstream was not told: %v", version, path, err)
			} else if late := entries[0].Ended.Sub(time.Unix(0, gone)); late > time.Second {
				t.Errorf("%s %s: the upstream was told after %s", version, path, late)
			}
		}
	}
	end()
}

// TestKilledDaemon kills it with -9: connects are refused at once and nothing reaches
// the upstream; started again it goes on where it was, cooldowns and all.
func TestKilledDaemon(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	needs(t, "curl")
	h.spend("first")
	ask, end := h.converse(`while read -r ignored; do
	curl -sS -o /dev/null --max-time 10 -w '%{http_code} %{time_total} %{errormsg}\n' -H "Authorization: Bearer $OPENAI_API_KEY" \
		-d '` + chatBody + `' https://api.openai.com/v1/chat/completions 2>/dev/null
done`)
	if got := ask(""); !strings.HasPrefix(got, "200 ") {
		t.Fatalf("before: %s", got)
	}
	h.daemon.kill()
	before := h.sim.Journal().Last()
	got := ask("")
	var code int
	var seconds float64
	if _, err := fmt.Sscan(got, &code, &seconds); err != nil || code != 0 || seconds > 0.05 {
		t.Errorf("with no daemon: %q, want a refusal within 50 ms", got)
	}
	if n := h.sim.Journal().Last() - before; n != 0 {
		t.Errorf("the upstream saw %d requests of an agent without a daemon", n)
	}
	h.start()
	if got := ask(""); !strings.HasPrefix(got, "200 ") {
		t.Errorf("after: %s", got)
	}
	if e := h.seen(before, 1)[0]; e.Credential != "second" {
		t.Errorf("the refused member is asked again after a restart: %s", e.Credential)
	}
	end()
}

// converse starts an agent that answers each line with a line. The end is its
// standard input's, and has to be a success.
func (h *house) converse(script string) (ask func(line string) string, end func()) {
	h.t.Helper()
	agent := h.agent(nil, h.path, "run", "--user", "root", "--", "sh", "-c", script)
	in, err := agent.StdinPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	lines := make(chan string, 1)
	agent.Stdout = lineWriter{new(bytes.Buffer), lines}
	agent.Stderr = os.Stderr
	if err := agent.Start(); err != nil {
		h.t.Fatal(err)
	}
	ended := false
	h.t.Cleanup(func() {
		if !ended {
			_ = agent.Process.Kill()
			_ = agent.Wait()
		}
	})
	ask = func(line string) string {
		h.t.Helper()
		fmt.Fprintln(in, line)
		select {
		case answer := <-lines:
			return answer
		case <-time.After(20 * time.Second):
			h.t.Fatalf("no answer to %q", line)
			return ""
		}
	}
	return ask, func() {
		h.t.Helper()
		ended = true
		in.Close()
		if err := agent.Wait(); err != nil {
			h.t.Errorf("the agent ended with %v", err)
		}
	}
}

// lineWriter hands on whole lines.
type lineWriter struct {
	rest  *bytes.Buffer
	lines chan<- string
}

func (w lineWriter) Write(p []byte) (int, error) {
	w.rest.Write(p)
	for {
		line, err := w.rest.ReadString('\n')
		if err != nil {
			w.rest.WriteString(line)
			return len(p), nil
		}
		w.lines <- strings.TrimSpace(line)
	}
}

// TestBadUpstreamCertificates shows upstream certificates that must not be accepted:
// the client gets a 502 that says why, and no credential leaves.
func TestBadUpstreamCertificates(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]certificate{
		"case_46_expired": func(a *simulator.Authority, host string) (*tls.Certificate, error) {
			return a.Sign(&x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-24 * time.Hour)}, host)
		},
		"case_46_not_yet_valid": func(a *simulator.Authority, host string) (*tls.Certificate, error) {
			return a.Sign(&x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(24 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour)}, host)
		},
		"case_46_another_name": func(a *simulator.Authority, _ string) (*tls.Certificate, error) { return a.Leaf("wrong.example") },
		"case_46_another_authority": func(_ *simulator.Authority, host string) (*tls.Certificate, error) {
			other, err := simulator.NewAuthority()
			if err != nil {
				return nil, err
			}
			return other.Leaf(host)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, change)
			got := h.chat("-d", chatBody)
			if !strings.Contains(got, "\n502 ") || !strings.Contains(got, "certificate") {
				t.Errorf("%s", got)
			}
			if entries := h.sim.Journal().Entries(); len(entries) != 0 {
				t.Errorf("it was sent all the same: %+v", entries)
			}
		})
	}
}

// TestNamesThatDisagree asks a bound host for another one.
func TestNamesThatDisagree(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	for _, version := range []string{"--http1.1", "--http2"} {
		if got := h.chat(version, "-H", "Host: api.anthropic.com", "-d", chatBody); !strings.Contains(got, "\n421 ") {
			t.Errorf("%s: %s", version, got)
		}
	}
	if entries := h.sim.Journal().Entries(); len(entries) != 0 {
		t.Errorf("it was sent all the same: %+v", entries)
	}
	if events := h.sluice("", "events"); strings.Count(events, "denied pool=openai") != 2 {
		t.Errorf("events: %s", events)
	}
}

// TestAnAgentDoesNotFillTheLog: it may have refused what it likes, as often as it likes; what else is in the log stays there.
func TestAnAgentDoesNotFillTheLog(t *testing.T) {
	t.Parallel()
	needs(t, "curl")
	h := newHouse(t, nil)
	const asked = 5 * denialsTold
	h.output("sh", "-c", fmt.Sprintf(`for i in $(seq %d); do curl -sS -o /dev/null --max-time 20 -H 'Host: api.anthropic.com' https://api.openai.com/ http://api.openai.com:443/; done`, asked/2))
	refused := 0
	h.until("all are refused", func() bool {
		events := h.sluice("", "events", "-n", "1000")
		refused = strings.Count(events, "denied pool=openai")
		return refused >= denialsTold
	})
	if refused > 2*denialsTold { // a minute may have begun in between
		t.Errorf("%d of %d are in the log", refused, asked)
	}
}

// TestNothingIsLeft attaches, asks, detaches and stops.
func TestNothingIsLeft(t *testing.T) {
	h := newHouse(t, nil)
	h.chat("-d", chatBody)
	h.sluice("", "detach", "--all")
	h.daemon.kill()
	config := filepath.Join(h.dir, "config.toml")
	h.sluice("", "detach", "--all", "--config", config, "--state-dir", filepath.Join(h.dir, "state"))
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	var pins string
	if _, err := fmt.Sscanf(string(text), "pin_dir = %q", &pins); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(pins); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins are left: %v", err)
	}
}
