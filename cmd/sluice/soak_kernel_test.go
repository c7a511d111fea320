package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// soakClient is an agent that lives on: for each line "URL body" it sends a request, again
// while the daemon is away, and says what came of it.
func soakClient() {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		url, body, _ := strings.Cut(lines.Text(), " ")
		status, after := 0, ""
		for deadline := time.Now().Add(30 * time.Second); status == 0 && time.Now().Before(deadline); {
			status, after = soakRequest(url, body)
		}
		fmt.Println(status, after)
	}
}

func soakRequest(url, body string) (status int, after string) {
	method := http.MethodPost
	if body == "" {
		method = http.MethodGet
	}
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return -1, err.Error()
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Anthropic-Version", "2023-06-01")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		time.Sleep(50 * time.Millisecond)
		return 0, ""
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, ""
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusTooManyRequests {
		return resp.StatusCode, strconv.Quote(string(answer)) // the reason, for who looks into it
	}
	return resp.StatusCode, resp.Header.Get("Retry-After")
}

// soaked is one pool: its agent, and the edges that it must have announced.
type soaked struct {
	provider, host, url, body string
	names                     [2]string
	say                       io.Writer
	hear                      *bufio.Scanner
	random                    *rand.Rand
	sim                       *simulator.Simulator
	want                      map[string]int // by kind of event
	served, refused           int
}

var soakedPools = []soaked{
	{provider: "openai", host: "api.openai.com", url: "/v1/chat/completions", body: chatBody},
	{provider: "codex", host: "chatgpt.com", url: "/backend-api/codex/responses", body: `{"model":"m","stream":true,"input":"hello"}`},
	{provider: "anthropic", host: "api.anthropic.com", url: "/v1/messages", body: `{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hello"}]}`},
	{provider: "gemini", host: "generativelanguage.googleapis.com", url: "/v1beta/models/m:generateContent", body: `{"contents":[{"parts":[{"text":"hello"}]}]}`},
	{provider: "openrouter", host: "openrouter.ai", url: "/api/v1/chat/completions", body: chatBody},
	{provider: "github", host: "api.github.com", url: "/user"},
}

// ask sends a request through the agent and returns who was asked upstream.
func (s *soaked) ask() (status int, after time.Duration, asked []simulator.Entry, err error) {
	before := s.sim.Journal().Last()
	if _, err := fmt.Fprintln(s.say, "https://"+s.host+s.url, s.body); err != nil {
		return 0, 0, nil, err
	}
	if !s.hear.Scan() {
		return 0, 0, nil, fmt.Errorf("the agent ended: %v", s.hear.Err())
	}
	code, seconds, _ := strings.Cut(s.hear.Text(), " ")
	if status, err = strconv.Atoi(code); err != nil {
		return 0, 0, nil, err
	}
	n, err := strconv.Atoi(seconds)
	if err != nil && seconds != "" {
		return status, 0, nil, errors.New(seconds)
	}
	for _, e := range s.sim.Journal().Since(before) {
		if e.Host == s.host {
			asked = append(asked, e)
		}
	}
	return status, time.Duration(n) * time.Second, asked, nil
}

// good asks and wants an answer; it returns whose it was.
func (s *soaked) good(what string) (string, error) {
	status, _, asked, err := s.ask()
	if err != nil || status != 200 || len(asked) == 0 {
		return "", fmt.Errorf("%s: %s was answered %d by %d upstream requests: %w", what, s.provider, status, len(asked), err)
	}
	s.served++
	return asked[len(asked)-1].Credential, nil
}

// cycle lets one member run out, then perhaps the other, and both come back.
func (s *soaked) cycle() error {
	for range s.random.IntN(3) {
		if _, err := s.good("before"); err != nil {
			return err
		}
	}
	active, err := s.good("before")
	if err != nil {
		return err
	}
	other := s.names[0]
	if active == other {
		other = s.names[1]
	}
	window := func() time.Duration { return 10*time.Second + time.Duration(s.random.IntN(3000))*time.Millisecond }
	first := window()
	back := time.Now().Add(first)
	if err := s.sim.Spend(active, first); err != nil {
		return err
	}
	if got, err := s.good("with one member out"); err != nil || got != other {
		return fmt.Errorf("%s was answered by %q, want %q: %w", s.provider, got, other, err)
	}
	s.want["cred_failover"]++
	if s.random.IntN(3) > 0 {
		second := window()
		if end := time.Now().Add(second); end.After(back) {
			back = end
		}
		if err := s.sim.Spend(other, second); err != nil {
			return err
		}
		if err := s.exhausted(); err != nil {
			return err
		}
	}
	// What is stated is in whole seconds.
	time.Sleep(time.Until(back) + 2*time.Second)
	return nil
}

// exhausted asks while nobody is left, waits for as long as it is told to, and asks again.
func (s *soaked) exhausted() error {
	s.want["pool_exhausted"]++
	var wait time.Duration
	for i := range 2 + s.random.IntN(4) {
		status, after, asked, err := s.ask()
		if err != nil || status != 429 || after <= 0 || (i > 0 && len(asked) > 0) {
			return fmt.Errorf("%s, with nobody left, was answered %d (%s) by %d upstream requests: %w", s.provider, status, after, len(asked), err)
		}
		wait = after
		s.refused++
		time.Sleep(time.Duration(s.random.IntN(500)) * time.Millisecond)
	}
	time.Sleep(wait)
	if _, err := s.good("when the time was up"); err != nil {
		return err
	}
	s.want["pool_recovered"]++
	return nil
}

// soakFor is how long the soak takes: `make soak` lets it run longer.
func soakFor(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("SLUICE_SOAK")
	if text == "" {
		return 30 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestSoak lets the members of a pool of every preset run out at random times, all
// through the redirect, while the daemon is killed now and then: each edge is announced
// once and none is made up, whoever is refused is not asked before its time, and an agent
// sees a 429 only with nobody left.
func TestSoak(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	told := make(map[string]map[string]int) // pool -> kind -> notices
	seen := make(map[string]bool)           // by seq
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var m struct{ Pool, Kind string }
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		// A daemon that is killed between a delivery and its record repeats it, with its number.
		if seq := r.Header.Get("Sluice-Seq"); !seen[seq] {
			seen[seq] = true
			if told[m.Pool] == nil {
				told[m.Pool] = make(map[string]int)
			}
			told[m.Pool][m.Kind]++
		}
	}))
	defer hook.Close()
	var known []simulator.Credential
	pools := slices.Clone(soakedPools)
	for i := range pools {
		p := &pools[i]
		p.names = [2]string{p.provider + "-1", p.provider + "-2"}
		for _, name := range p.names {
			known = append(known, simulator.Credential{Name: name, Secret: "sk-" + name + "-16180339"})
		}
	}
	h := newEmptyHouse(t, nil, known, fmt.Sprintf("[[notify.webhook]]\nname = \"ops\"\nurl = %q\n", hook.URL))
	client := filepath.Join(h.dir, "soak-client")
	if err := os.Symlink(h.path, client); err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for i := range pools {
		p := &pools[i]
		for _, name := range p.names {
			h.sluice("sk-"+name+"-16180339", "cred", "add", name)
		}
		h.sluice("", "pool", "create", p.provider, "--members", strings.Join(p.names[:], ","), "--provider", p.provider)
		p.sim, p.want, p.random = h.sim, make(map[string]int), rand.New(rand.NewPCG(seed, uint64(i)))
	}
	until := time.Now().Add(soakFor(t))
	var agents sync.WaitGroup
	for i := range pools {
		p := &pools[i]
		stop := h.soakAgent(p, client)
		agents.Go(func() {
			defer stop()
			for time.Now().Before(until) {
				if err := p.cycle(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	over := make(chan struct{})
	go func() { agents.Wait(); close(over) }()
	for kills := 0; ; kills++ {
		select {
		case <-over:
			h.soaked(pools, func() map[string]map[string]int {
				mu.Lock()
				defer mu.Unlock()
				text, err := json.Marshal(told)
				copied := make(map[string]map[string]int)
				if err != nil || json.Unmarshal(text, &copied) != nil {
					t.Error("not copied")
				}
				return copied
			}, kills)
			return
		case <-time.After(7*time.Second + time.Duration(rand.IntN(5000))*time.Millisecond):
			h.daemon.kill()
			h.start()
		}
	}
}

// soakAgent starts an agent of a pool; stop ends it.
func (h *house) soakAgent(p *soaked, client string) (stop func()) {
	h.t.Helper()
	cmd := h.agentFor(soakFor(h.t)+2*time.Minute, nil, h.path, "run", "--user", "root", "--pool", p.provider, "--", client)
	in, out, stderr := h.piped(cmd)
	p.say, p.hear = in, bufio.NewScanner(out)
	return func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			h.t.Errorf("the agent of %s: %v: %s", p.provider, err, stderr.String())
		}
	}
}

// soaked compares what was told with what had to be.
func (h *house) soaked(pools []soaked, told func() map[string]map[string]int, kills int) {
	h.t.Helper()
	enough := func() bool {
		all := told()
		for i := range pools {
			for kind, n := range pools[i].want {
				if all[pools[i].provider][kind] < n {
					return false
				}
			}
		}
		return true
	}
	for deadline := time.Now().Add(20 * time.Second); !enough() && time.Now().Before(deadline); {
		time.Sleep(100 * time.Millisecond)
	}
	time.Sleep(time.Second) // for one too many
	all := told()
	for i := range pools {
		p := &pools[i]
		h.t.Logf("%s: %d answered, %d refused, told %v", p.provider, p.served, p.refused, all[p.provider])
		for _, kind := range []string{"cred_failover", "pool_exhausted", "pool_recovered"} {
			if got := all[p.provider][kind]; got != p.want[kind] {
				h.t.Errorf("%s: %d %s notices, want %d", p.provider, got, kind, p.want[kind])
			}
		}
	}
	h.t.Logf("%d kills", kills)
}
