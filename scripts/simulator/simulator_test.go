package simulator_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-proxy/sluice/scripts/simulator"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a simulator until the test ends.
func start(t *testing.T, o simulator.Options) *simulator.Simulator {
	t.Helper()
	sim, err := simulator.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := sim.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return sim
}

// client dials the simulator whatever the host is, over the protocols given.
func client(t *testing.T, sim *simulator.Simulator, protocols ...string) *http.Client {
	t.Helper()
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, sim.Addr().String())
		},
		TLSClientConfig:    &tls.Config{RootCAs: sim.Authority().Pool()},
		Protocols:          new(http.Protocols),
		DisableCompression: true,
	}
	for _, p := range protocols {
		transport.Protocols.SetHTTP1(transport.Protocols.HTTP1() || p == "http/1.1")
		transport.Protocols.SetHTTP2(transport.Protocols.HTTP2() || p == "h2")
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// both runs a test over HTTP/1.1 and HTTP/2.
func both(t *testing.T, o simulator.Options, test func(t *testing.T, sim *simulator.Simulator, c *http.Client, proto string)) {
	t.Helper()
	for name, proto := range map[string]string{"http/1.1": "HTTP/1.1", "h2": "HTTP/2.0"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sim := start(t, o)
			test(t, sim, client(t, sim, name), proto)
		})
	}
}

func send(t *testing.T, c *http.Client, method, url string, header map[string]string, body io.Reader) (*http.Response, []byte) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		q.Header.Set(name, value)
	}
	r, err := c.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	answer, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r, answer
}

const chat = `{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}`

func TestEcho(t *testing.T) {
	t.Parallel()
	both(t, simulator.Options{}, func(t *testing.T, sim *simulator.Simulator, c *http.Client, proto string) {
		_, raw := send(t, c, "PUT", "https://some.host.example/echo?a=1", map[string]string{"X-One": "1"}, strings.NewReader("hello"))
		var got simulator.Received
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256([]byte("hello"))
		if got.Method != "PUT" || got.Target != "/echo?a=1" || got.Proto != proto || got.ServerName != "some.host.example" ||
			got.BodyBytes != 5 || got.BodySHA256 != hex.EncodeToString(sum[:]) {
			t.Errorf("echo: %s", raw)
		}
		entries := sim.Journal().Entries()
		if len(entries) != 1 || entries[0].Path != "/echo" || entries[0].ServerName != "some.host.example" || !entries[0].TLS {
			t.Errorf("journal: %+v", entries)
		}
	})
}

func TestEchoKeepsOrderAndCaseOnHTTP1(t *testing.T) {
	t.Parallel()
	sim := start(t, simulator.Options{Protocols: []string{"http/1.1"}})
	conn, err := tls.Dial("tcp", sim.Addr().String(), &tls.Config{RootCAs: sim.Authority().Pool(), ServerName: "a.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The first one's body ends like a head and is followed by the next head in the same write.
	body := "GET /echo HTTP/1.1\r\nX: no\r\n\r\n"
	_, err = io.WriteString(conn, "POST /upload HTTP/1.1\r\nHost: a.example\r\nContent-Length: 30\r\n\r\n"+body+
		"GET /echo HTTP/1.1\r\nhOST: a.example\r\nx-B: 2\r\nX-a: 1\r\nConnection: close\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	want := `"fields":[["hOST","a.example"],["x-B","2"],["X-a","1"],["Connection","close"]]`
	if !bytes.Contains(all, []byte(want)) {
		t.Errorf("answers %s\nhave no %s", all, want)
	}
}

func TestQuota(t *testing.T) {
	t.Parallel()
	both(t, simulator.Options{Credentials: []simulator.Credential{{
		Name: "first", Secret: "sk-first", Behaviour: simulator.Behaviour{Quota: 2, Window: simulator.Duration(time.Hour)},
	}}}, func(t *testing.T, sim *simulator.Simulator, c *http.Client, proto string) {
		key := map[string]string{"Authorization": "Bearer sk-first"}
		for i, want := range []int{200, 200, 429, 429} {
			r, body := send(t, c, "POST", "https://api.openai.com/v1/chat/completions", key, strings.NewReader(chat))
			if r.StatusCode != want {
				t.Fatalf("request %d: %s: %s", i, r.Status, body)
			}
			if want == 429 && (r.Header.Get("Retry-After") != "3600" || r.Header.Get("X-Ratelimit-Remaining-Requests") != "0") {
				t.Errorf("refusal: %v", r.Header)
			}
		}
		if err := sim.Restore("first"); err != nil {
			t.Fatal(err)
		}
		if r, body := send(t, c, "POST", "https://api.openai.com/v1/chat/completions", key, strings.NewReader(chat)); r.StatusCode != 200 {
			t.Errorf("restored: %s: %s", r.Status, body)
		}
		entries, err := sim.Journal().Wait(t.Context(), 0, func(list []simulator.Entry) bool {
			return len(list) == 5 && !list[4].Ended.IsZero()
		})
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []string{"", "", "openai", "openai", ""} {
			if e := entries[i]; e.Credential != "first" || e.Refusal != want || e.Proto != proto {
				t.Errorf("entry %d: %+v", i, e)
			}
		}
		if raw, _ := json.Marshal(entries); bytes.Contains(raw, []byte("sk-first")) {
			t.Errorf("the journal holds a secret: %s", raw)
		}
	})
}

func TestUnknownCredential(t *testing.T) {
	t.Parallel()
	sim := start(t, simulator.Options{Credentials: []simulator.Credential{{Name: "first", Secret: "sk-first"}}})
	c := client(t, sim, "h2")
	for _, test := range []struct {
		name, url string
		header    map[string]string
		status    int
		presented []simulator.Presented
	}{
		{"none", "https://api.openai.com/v1/models", nil, 401, nil},
		{"unknown", "https://api.openai.com/v1/models", map[string]string{"Authorization": "Bearer sk-no"}, 401, []simulator.Presented{{Where: "authorization"}}},
		{"query", "https://api.github.com/user?key=sk-first", nil, 200, []simulator.Presented{{Where: "query key", Credential: "first"}}},
		{
			"two", "https://api.openai.com/v1/models",
			map[string]string{"Authorization": "Bearer sk-first", "X-Api-Key": "sk-no"},
			200,
			[]simulator.Presented{{Where: "authorization", Credential: "first"}, {Where: "x-api-key"}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := sim.Journal().Last()
			if r, body := send(t, c, "GET", test.url, test.header, nil); r.StatusCode != test.status {
				t.Errorf("%s: %s", r.Status, body)
			}
			e := sim.Journal().Since(before)[0]
			if len(e.Presented) != len(test.presented) {
				t.Fatalf("presented: %+v", e.Presented)
			}
			for i := range e.Presented {
				if e.Presented[i] != test.presented[i] {
					t.Errorf("presented: %+v", e.Presented)
				}
			}
		})
	}
}

// What an agent asks before it begins is answered without a credential, or with one that is used up.
func TestAgentsMayBegin(t *testing.T) {
	t.Parallel()
	sim := start(t, simulator.Options{Credentials: []simulator.Credential{{Name: "first", Secret: "at-first", AccountID: "account-1"}}})
	if err := sim.Spend("first", time.Hour); err != nil {
		t.Fatal(err)
	}
	c := client(t, sim, "h2")
	mine := map[string]string{"Authorization": "Bearer at-first", "Chatgpt-Account-Id": "account-1"}
	for _, test := range []struct {
		url    string
		header map[string]string
		status int
	}{
		{"https://api.anthropic.com/api/hello", nil, 200},
		{"https://platform.claude.com/v1/oauth/hello", nil, 200},
		{"https://chatgpt.com/backend-api/wham/accounts/check", mine, 200},
		{"https://chatgpt.com/backend-api/wham/accounts/check", map[string]string{"Authorization": "Bearer at-first"}, 401},
		{"https://chatgpt.com/backend-api/codex/models", mine, 429},
	} {
		if r, body := send(t, c, "GET", test.url, test.header, nil); r.StatusCode != test.status {
			t.Errorf("%s: %s, want %d: %s", test.url, r.Status, test.status, body)
		}
	}
}

func TestStyles(t *testing.T) {
	t.Parallel()
	hosts := map[string]string{
		"openai": "https://api.openai.com/v1/chat/completions", "codex": "https://chatgpt.com/backend-api/codex/responses",
		"openrouter": "https://openrouter.ai/api/v1/chat/completions", "anthropic": "https://api.anthropic.com/v1/messages",
		"gemini": "https://generativelanguage.googleapis.com/v1beta/models/g:generateContent", "github": "https://api.github.com/user",
	}
	status := map[string]int{
		"github": 403, "github-secondary": 403, "openai-unauthorized": 401, "anthropic-unauthorized": 401,
		"anthropic-overloaded": 529, "server-error": 500, "unavailable": 503, "custom": 418,
	}
	says := map[string]string{ // in the header section or the body
		"openai-tokens": "X-Ratelimit-Reset-Tokens: 59m5", "openai-quota": "insufficient_quota", "codex": `"resets_in_seconds":3600`,
		"codex-headers": "X-Codex-Primary-Used-Percent: 100", "anthropic": "Anthropic-Ratelimit-Requests-Remaining: 0",
		"anthropic-unified": "Anthropic-Ratelimit-Unified-5h-Status: rejected", "gemini": `"retryDelay":"3600s"`,
		"gemini-per-day": "PerDay", "github": "X-Ratelimit-Remaining: 0", "github-secondary": "Retry-After: 3600",
		"retry-after": "Retry-After: 3600", "retry-after-date": "GMT", "openrouter": "X-RateLimit-Reset", "custom": "X-Pot: tea",
	}
	for _, style := range simulator.Styles() {
		t.Run(style, func(t *testing.T) {
			t.Parallel()
			sim := start(t, simulator.Options{Credentials: []simulator.Credential{{
				Name: "a", Secret: "sk-a", Behaviour: simulator.Behaviour{
					Refusal: style, Window: simulator.Duration(time.Hour), Status: 418, Header: map[string][]string{"x-pot": {"tea"}},
				},
			}}})
			if err := sim.Spend("a", time.Hour); err != nil {
				t.Fatal(err)
			}
			provider, _, _ := strings.Cut(style, "-")
			url := hosts[provider]
			if url == "" {
				url = hosts["openai"]
			}
			r, body := send(t, client(t, sim, "http/1.1"), "POST", url, map[string]string{"Authorization": "Bearer sk-a"}, strings.NewReader("{}"))
			want := status[style]
			if want == 0 {
				want = 429
			}
			if r.StatusCode != want {
				t.Errorf("status %d, not %d", r.StatusCode, want)
			}
			var all bytes.Buffer
			if err := r.Header.Write(&all); err != nil {
				t.Fatal(err)
			}
			all.Write(body)
			if !strings.Contains(all.String(), says[style]) {
				t.Errorf("no %q in:\n%s", says[style], all.String())
			}
		})
	}
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]simulator.Options{
		"protocol":    {Protocols: []string{"h3"}},
		"no name":     {Credentials: []simulator.Credential{{Secret: "a"}}},
		"no secret":   {Credentials: []simulator.Credential{{Name: "a"}}},
		"name twice":  {Credentials: []simulator.Credential{{Name: "a", Secret: "1"}, {Name: "a", Secret: "2"}}},
		"same secret": {Credentials: []simulator.Credential{{Name: "a", Secret: "1"}, {Name: "b", Secret: "1"}}},
		"refusal":     {Credentials: []simulator.Credential{{Name: "a", Secret: "1", Behaviour: simulator.Behaviour{Refusal: "polite"}}}},
		"custom":      {Credentials: []simulator.Credential{{Name: "a", Secret: "1", Behaviour: simulator.Behaviour{Refusal: "custom"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := simulator.New(o); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestStartFailsOnATakenAddress(t *testing.T) {
	t.Parallel()
	taken := start(t, simulator.Options{}).Addr().String()
	sim, err := simulator.New(simulator.Options{Addrs: []string{"127.0.0.1:0", taken}})
	if err != nil {
		t.Fatal(err)
	}
	if err := sim.Start(context.Background()); err == nil {
		t.Error("no error")
	}
	if err := sim.Close(); err != nil {
		t.Error(err)
	}
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	both(t, simulator.Options{}, func(t *testing.T, sim *simulator.Simulator, c *http.Client, _ string) {
		q, err := http.NewRequestWithContext(t.Context(), "GET", "https://a.example/stream?events=1000&interval=1h", nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadAll(r.Body); err == nil {
			t.Error("the stream ended in order")
		}
	})
}
