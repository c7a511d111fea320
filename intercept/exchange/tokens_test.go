package exchange

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// tokenOrigin is a host with an API and a token endpoint, which notes what reaches it.
type tokenOrigin struct {
	mu     sync.Mutex
	seen   []string
	answer func(w http.ResponseWriter)
}

func (o *tokenOrigin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seen = append(o.seen, fmt.Sprintf("%s %s auth=%q %s", r.Method, r.URL.RequestURI(), r.Header.Get("Authorization"), body))
	if o.answer != nil {
		o.answer(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, `{"access_token":"theirs","refresh_token":"theirs too"}`)
}

func (o *tokenOrigin) took() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	seen := o.seen
	o.seen = nil
	return seen
}

// tokenBench is a pool of the account "a" and the key "b", whose token endpoint is on the
// host of the bench.
func tokenBench(t *testing.T, protos []string, change func(*Options, *pool.Route)) (*bench, *pool.Keeper, *tokenOrigin) {
	t.Helper()
	k, route := newKeeper(
		t, pool.CredentialSpec{
			Name: "a", Type: pool.OAuth, TokenURL: "https://" + testHost + "/oauth/token",
			OAuth: &pool.OAuthTokens{
				AccessToken: vault.NewSecret([]byte("real-a-0")), RefreshToken: vault.NewSecret([]byte("real-rt-0")), ExpiresAt: time.Now().Add(time.Hour),
			},
		},
		pool.CredentialSpec{Name: "b", Secret: vault.NewSecret([]byte(secretOf("b")))},
	)
	o := &tokenOrigin{}
	b := newBench(t, setup{protos: protos, handler: o, route: &route, change: func(opts *Options) {
		opts.Pools, opts.Tokens = k, k
		if change != nil {
			change(opts, &route)
		}
	}})
	return b, k, o
}

// agentTokens are the placeholders of the pool.
func agentTokens(t *testing.T, k *pool.Keeper) pool.AgentTokens {
	t.Helper()
	tokens, err := k.AgentTokens("p")
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func formOf(grant, token string) string {
	return url.Values{"grant_type": {grant}, "refresh_token": {token}, "client_id": {"app"}}.Encode()
}

func jsonOf(grant, token string) string {
	text, _ := json.Marshal(map[string]string{"grant_type": grant, "refresh_token": token})
	return string(text)
}

func packed(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(s))
	_ = w.Close()
	return b.String()
}

// TestTheAgentsOwnRefreshIsAnswered: whoever sends a placeholder or a token of a member's
// to the token endpoint gets placeholders, and nothing of that goes upstream.
func TestTheAgentsOwnRefreshIsAnswered(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		b, k, o := tokenBench(t, protos, nil)
		held := agentTokens(t, k)
		c := b.client(h2)
		for name, r := range map[string]struct {
			path, encoding, body string
			want                 int
		}{
			"a form":                    {"/oauth/token", "", formOf("refresh_token", held.RefreshToken), 200},
			"JSON":                      {"/oauth/token", "", jsonOf("refresh_token", held.RefreshToken), 200},
			"another placeholder":       {"/oauth/token", "", jsonOf("refresh_token", held.AccessToken), 200},
			"compressed":                {"/oauth/token", "gzip", packed(jsonOf("refresh_token", held.RefreshToken)), 200},
			"in the query":              {"/oauth/token?refresh_token=" + url.QueryEscape(held.RefreshToken), "", "", 200},
			"given twice":               {"/oauth/token", "", `{"refresh_token":"` + held.RefreshToken + `","refresh_token":"x"}`, 200},
			"escaped path":              {"/oauth/%74oken/", "", formOf("refresh_token", held.RefreshToken), 200},
			"the member's own":          {"/oauth/token", "", jsonOf("refresh_token", "real-rt-0"), 200},
			"the member's own, escaped": {"/oauth/token", "", `{"refresh_token":"real\u002drt-0"}`, 200},
			"another grant":             {"/oauth/token", "", formOf("authorization_code", held.RefreshToken), 400},
			"compressed in a new way":   {"/oauth/token", "snappy", "x", 415},
			"too long":                  {"/oauth/token", "", strings.Repeat("x", maxTokenBody) + formOf("refresh_token", "real-rt-0"), 413},
			"too long once unpacked":    {"/oauth/token", "gzip", packed(strings.Repeat("x", maxTokenBody) + formOf("", "real-rt-0")), 413},
		} {
			req := newRequest("POST", strings.NewReader(r.body))
			req.URL, _ = url.Parse("https://" + testHost + r.path)
			if r.encoding != "" {
				req.Header.Set("Content-Encoding", r.encoding)
			}
			resp, body := ask(t, c, req)
			if resp.StatusCode != r.want || resp.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: %d %v %s", name, resp.StatusCode, resp.Header, body)
			}
			var got pool.AgentTokens
			if err := json.Unmarshal([]byte(body), &got); r.want == 200 && (err != nil || got != held) {
				t.Errorf("%s: answered %s", name, body)
			}
			if seen := o.took(); len(seen) != 0 || strings.Contains(body, "real-") {
				t.Errorf("%s: went upstream: %q; answered %s", name, seen, body)
			}
		}
		if resp, _ := ask(t, c, newRequest("POST", strings.NewReader("hello"))); resp.StatusCode != 200 {
			t.Errorf("the API on the same host answers %d", resp.StatusCode)
		}
		if seen := o.took(); len(seen) != 1 || !strings.Contains(seen[0], `auth="Bearer real-a-0"`) {
			t.Errorf("the API saw %q", seen)
		}
	})
}

// TestNoAccountIsRevokedByAnAgent: an agent that logs out ends no login of the pool's, and is told
// that it is done; what is not the pool's it may give up.
func TestNoAccountIsRevokedByAnAgent(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		b, k, o := tokenBench(t, protos, nil)
		o.answer = func(w http.ResponseWriter) { fmt.Fprint(w, "revoked") } // its content says nothing (RFC 7009)
		c := b.client(h2)
		revoke := func(body string) (status int, text string, seen []string) {
			req := newRequest("POST", strings.NewReader(body))
			req.URL, _ = url.Parse("https://" + testHost + "/oauth/revoke")
			resp, text := ask(t, c, req)
			return resp.StatusCode, text, o.took()
		}
		for name, token := range map[string]string{
			"the placeholder": agentTokens(t, k).RefreshToken, "the member's own": "real-rt-0", "its access token": "real-a-0",
		} {
			for _, body := range []string{
				`{"token":"` + token + `","token_type_hint":"refresh_token","client_id":"app"}`,
				url.Values{"token": {token}, "client_id": {"app"}}.Encode(),
			} {
				if status, text, seen := revoke(body); status != 200 || strings.Contains(text, "token") || len(seen) != 0 {
					t.Errorf("%s: %d %s; went upstream: %q", name, status, text, seen)
				}
			}
		}
		status, text, seen := revoke(`{"token":"theirs"}`)
		if status != 200 || text != "revoked" || !slices.Equal(seen, []string{`POST /oauth/revoke auth="" {"token":"theirs"}`}) {
			t.Errorf("the agent's own: %d %s; upstream saw %q", status, text, seen)
		}
	})
}

// TestUnknownTokensArePassedOnOrRefused, as it is configured; without a credential of the pool's.
func TestUnknownTokensArePassedOnOrRefused(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		for _, refused := range []bool{false, true} {
			b, _, o := tokenBench(t, protos, func(opts *Options, r *pool.Route) {
				opts.RefuseUnknownTokens, r.Bare = refused, true
			})
			c := b.client(h2)
			post := func(path string) (*http.Response, string) {
				req := newRequest("POST", strings.NewReader(formOf("refresh_token", "their-rt")))
				req.URL, _ = url.Parse("https://" + testHost + path)
				req.Header.Set("Authorization", "Basic dGhlaXJz")
				return ask(t, c, req)
			}
			resp, body := post("/oauth/token")
			want := []string{`POST /oauth/token auth="Basic dGhlaXJz" ` + formOf("refresh_token", "their-rt")}
			if refused {
				want = nil
			}
			if got := o.took(); !slices.Equal(got, want) || (resp.StatusCode == 400) != refused {
				t.Errorf("refused %t: answered %d %s, upstream saw %q", refused, resp.StatusCode, body, got)
			}
			if !refused && body != `{"access_token":"theirs","refresh_token":"theirs too"}` {
				t.Errorf("the answer was changed to %s", body)
			}
			post("/authorize")
			want = []string{`POST /authorize auth="Basic dGhlaXJz" ` + formOf("refresh_token", "their-rt")}
			if got := o.took(); !slices.Equal(got, want) {
				t.Errorf("another path of the host saw %q", got)
			}
		}
	})
}

// TestTokenAnswersThatMayHoldTokensAreWithheld.
func TestTokenAnswersThatMayHoldTokensAreWithheld(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		b, k, o := tokenBench(t, protos, nil)
		held := agentTokens(t, k)
		c := b.client(h2)
		for name, a := range map[string]struct {
			status               int
			kind, encoding, body string
			want                 int // 0: as it came
		}{
			"an error":                 {400, "application/json", "", `{"error":"invalid_grant"}`, 0},
			"an error in prose":        {503, "text/html", "", `<h1>later</h1>`, 0},
			"an error with a token":    {400, "application/json", "", `{"error":"invalid_grant","of":"real-rt-0"}`, 502},
			"a form":                   {200, "application/x-www-form-urlencoded", "", `access_token=theirs`, 0},
			"compressed":               {200, "application/json", "gzip", packed(`{"access_token":"theirs"}`), 0},
			"cut off":                  {200, "application/json", "", `{"access_token":"their`, 502},
			"prose":                    {200, "text/html", "", `<p>theirs</p>`, 502},
			"more than can be read":    {200, "application/json", "", `{"access_token":"` + strings.Repeat("x", maxTokenBody) + `"}`, 502},
			"a form of more than that": {200, "application/x-www-form-urlencoded", "", `access_token=theirs&x=` + strings.Repeat("x", maxTokenBody), 502},
			"an unknown coding":        {200, "application/json", "snappy", `{"access_token":"theirs"}`, 502},
			"a member's token":         {200, "application/json", "", `{"access_token":"real-a-0"}`, 200},
			"a member's, compressed":   {200, "application/json", "gzip", packed(`{"id_token":"real-rt-0"}`), 200},
		} {
			o.mu.Lock()
			o.answer = func(w http.ResponseWriter) {
				w.Header().Set("Content-Type", a.kind)
				if a.encoding != "" {
					w.Header().Set("Content-Encoding", a.encoding)
				}
				w.WriteHeader(a.status)
				fmt.Fprint(w, a.body)
			}
			o.mu.Unlock()
			req := newRequest("POST", strings.NewReader(formOf("refresh_token", "their-rt")))
			req.URL, _ = url.Parse("https://" + testHost + "/oauth/token")
			resp, body := ask(t, c, req)
			switch {
			case a.want == 0 && (resp.StatusCode != a.status || body != a.body):
				t.Errorf("%s: changed to %d %q", name, resp.StatusCode, body)
			case a.want != 0 && resp.StatusCode != a.want:
				t.Errorf("%s: passed on as %d %q", name, resp.StatusCode, body)
			case a.want == 200:
				var got pool.AgentTokens
				if err := json.Unmarshal([]byte(body), &got); err != nil || got != held {
					t.Errorf("%s: answered %s", name, body)
				}
			}
			if strings.Contains(body, "real-") {
				t.Errorf("%s: the agent got %s", name, body)
			}
		}
		if n := b.x.Snapshot().TokensWithheld; n != 8 {
			t.Errorf("%d answers withheld, want 8", n)
		}
	})
}

// TestTokenBodyIsBounded: what comes after all that could be looked at is not kept.
func TestTokenBodyIsBounded(t *testing.T) {
	t.Parallel()
	var b tokenBody
	half := make([]byte, maxTokenBody/2)
	for range 2 {
		if n, err := b.Write(half); n != len(half) || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	if n, err := b.Write(half[:1]); n != 0 || err == nil || len(b.text) != maxTokenBody {
		t.Errorf("%d, %v, %d bytes are kept", n, err, len(b.text))
	}
}

func FuzzTokenValues(f *testing.F) {
	for _, s := range []string{`{"a":"b","a":["c",{"d":null}]}`, `{"a":1e400}`, `{"a":"` + "\xff" + `"}`, `"x"`, `{} {}`, ``, "a=b&c"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		values, ok := tokenValues(text)
		if ok != json.Valid(text) {
			t.Errorf("%q: readable %t", text, ok)
		}
		var plain string
		if json.Unmarshal(text, &plain) == nil && plain != "" && !slices.Contains(values, plain) {
			t.Errorf("%q: %q is not found in %q", text, plain, values)
		}
		(&tokenRequest{target: "/?" + string(text), body: text}).values()
	})
}
