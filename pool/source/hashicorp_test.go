package source

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-proxy/sluice/pool"
)

// vaultServer speaks the API of KV version 2, engine "secret" and "team/kv", as Vault 1.21
// does.
type vaultServer struct {
	*httptest.Server
	mu        sync.Mutex
	token     string
	namespace string
	sealed    bool
	instead   http.HandlerFunc // answers in its place
	versions  map[string][]map[string]any
}

func newVaultServer(t *testing.T) *vaultServer {
	s := &vaultServer{token: "hvs.canary-token", versions: make(map[string][]map[string]any)}
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that do not trust it
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func (s *vaultServer) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *vaultServer) put(path string, data map[string]any) {
	s.set(func() { s.versions[path] = append(s.versions[path], data) })
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func (s *vaultServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := func(status int, said ...string) {
		answer(w, status, map[string]any{"errors": append([]string{}, said...)})
	}
	switch {
	case s.instead != nil:
		s.instead(w, r)
		return
	case s.sealed:
		errs(http.StatusServiceUnavailable, "Vault is sealed")
		return
	case r.Header.Get("X-Vault-Token") != s.token || r.Header.Get("X-Vault-Namespace") != s.namespace:
		errs(http.StatusForbidden, "permission denied of "+r.Header.Get("X-Vault-Token"))
		return
	case r.Header.Get("X-Vault-Request") != "true":
		errs(http.StatusPreconditionFailed, "missing required header")
		return
	}
	path := strings.Replace(strings.TrimPrefix(r.URL.Path, "/v1/"), "/data/", "/", 1)
	all := s.versions[path]
	n := len(all)
	if asked := r.URL.Query().Get("version"); asked != "" && asked != "0" {
		n, _ = strconv.Atoi(asked)
	}
	if n < 1 || n > len(all) {
		errs(http.StatusNotFound)
		return
	}
	metadata := map[string]any{"version": n, "created_time": "2026-11-01T00:00:00.000000Z", "deletion_time": "", "destroyed": false, "custom_metadata": nil}
	status := http.StatusOK
	if all[n-1] == nil {
		metadata["deletion_time"], status = "2026-11-02T00:00:00.000000Z", http.StatusNotFound
	}
	answer(w, status, map[string]any{
		"request_id": "x", "lease_id": "", "renewable": false, "lease_duration": 0, "mount_type": "kv",
		"data": map[string]any{"data": all[n-1], "metadata": metadata},
	})
}

// hashiCorpAt are sources that ask the server, with a token in a file.
func hashiCorpAt(t *testing.T, s *vaultServer, change func(*HashiCorp)) (*Sources, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(s.token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := HashiCorp{Address: s.URL, TokenFile: file, CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})}
	if change != nil {
		change(&h)
	}
	return newSources(t, Options{HashiCorp: h}), file
}

func TestHashiCorp(t *testing.T) {
	t.Parallel()
	v := newVaultServer(t)
	v.put("secret/agents/openai", map[string]any{"key": "canary-1"})
	v.put("secret/agents/openai", map[string]any{"key": "canary-2"})
	v.put("secret/two", map[string]any{"a": "canary-a", "b": "canary-b", "n": 17, "list": []string{"canary"}, "": "canary"})
	v.put("secret/gone", map[string]any{"key": "canary"})
	v.put("secret/gone", nil)
	s, file := hashiCorpAt(t, v, nil)
	gives(t, s, "vault:secret/agents/openai#key", "canary-2")
	gives(t, s, "vault:secret/agents/openai", "canary-2")
	gives(t, s, "vault:secret/agents/openai?version=1#key", "canary-1")
	gives(t, s, "vault:secret/gone?version=1", "canary")
	gives(t, s, "vault:secret/two#b", "canary-b")
	gives(t, s, "vault:secret/two#n", "17")
	refuses(t, s, "vault:secret/two", pool.CodeInvalid, "fields , a, b, list, n", "behind #")
	refuses(t, s, "vault:secret/two#c", pool.CodeInvalid, `no field "c"`)
	refuses(t, s, "vault:secret/two#list", pool.CodeInvalid, "is no text")
	refuses(t, s, "vault:secret/gone#key", pool.CodeInvalid, "was deleted")
	refuses(t, s, "vault:secret/agents/openai?version=3#key", pool.CodeInvalid, "of version 3")
	refuses(t, s, "vault:secret/nobody#key", pool.CodeInvalid, "no secret nobody", "kv put")
	for _, crooked := range []string{
		"vault:secret", "vault:secret/", "vault:/secret/x", "vault:secret/../sys/mounts", "vault:secret/./x", "vault:secret//x", "vault:secret/x#", "vault:secret/x?list=true",
		"vault:secret/x?version=0", "vault:secret/x?version=-1", "vault:secret/%2e%2e/x", "vault:secret/x\r\n", "vault:secret/x\\..", "vault:#key", "vault:?version=1",
	} {
		refuses(t, s, crooked, pool.CodeInvalid, "not ")
	}

	v.set(func() { v.sealed = true })
	refuses(t, s, "vault:secret/agents/openai#key", pool.CodeUnavailable, "sealed", "unseal it")
	v.set(func() { v.sealed, v.token = false, "hvs.canary-another" })
	refuses(t, s, "vault:secret/agents/openai#key", pool.CodeUnavailable, "refuses the token in "+file, "secret/data/agents/openai")
	// Vault Agent puts another one there.
	if err := os.WriteFile(file, []byte("hvs.canary-another"), 0o600); err != nil {
		t.Fatal(err)
	}
	gives(t, s, "vault:secret/agents/openai#key", "canary-2")
	for _, none := range []string{"", "\n", "hvs.canary\nsecond-line"} {
		if err := os.WriteFile(file, []byte(none), 0o600); err != nil {
			t.Fatal(err)
		}
		refuses(t, s, "vault:secret/agents/openai#key", pool.CodeUnavailable, file+" holds none")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	refuses(t, s, "vault:secret/agents/openai#key", pool.CodeUnavailable, "no such file", "secrets.vault.token_file")
}

// An account's fields are asked for as a whole, or are a JSON text in one.
func TestHashiCorpAccount(t *testing.T) {
	t.Parallel()
	v := newVaultServer(t)
	account := map[string]any{"access_token": "canary-at", "refresh_token": "canary-rt", "expires_at": "2026-12-01T12:00:00Z"}
	v.put("secret/account", account)
	v.put("secret/nested", map[string]any{"account": account})
	v.put("secret/text", map[string]any{"account": `{"access_token":"canary-at","refresh_token":"canary-rt","expires_at":"2026-12-01T12:00:00Z"}`})
	s, _ := hashiCorpAt(t, v, nil)
	for _, from := range []string{"vault:secret/account", "vault:secret/nested", "vault:secret/nested#account", "vault:secret/text#account"} {
		got, err := s.Fetch(t.Context(), from, true)
		if err != nil {
			t.Fatal(from, err)
		}
		if tokens, err := pool.ParseTokens(got.Bytes()); err != nil || string(tokens.RefreshToken.Bytes()) != "canary-rt" {
			t.Errorf("%s: %v", from, err)
		}
	}
}

func TestHashiCorpNamespaceMountAndPaths(t *testing.T) {
	t.Parallel()
	v := newVaultServer(t)
	v.put("team/kv/agents/openai", map[string]any{"key": "canary"})
	v.put("team/kv/billing", map[string]any{"key": "canary"})
	v.set(func() { v.namespace = "admin/team" })
	s, _ := hashiCorpAt(t, v, func(h *HashiCorp) {
		h.Namespace, h.Mount, h.Paths = "admin/team", "team/kv", []string{"team/kv/agents/*"}
	})
	gives(t, s, "vault:agents/openai#key", "canary")
	refuses(t, s, "vault:billing#key", pool.CodeInvalid, "secrets.vault.paths")
	refuses(t, s, "vault:agents/../billing#key", pool.CodeInvalid, "not like")
	refuses(t, s, "vault:agents/nobody#key", pool.CodeInvalid, "namespace admin/team")
	v.set(func() { v.namespace = "another" })
	refuses(t, s, "vault:agents/openai#key", pool.CodeUnavailable, "refuses the token")
}

// What stands in for Vault is believed nothing, and what it says is not repeated: it may
// be the token.
func TestWhatIsNoVault(t *testing.T) {
	t.Parallel()
	var stolen []string
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { stolen = append(stolen, r.Header.Get("X-Vault-Token")) }))
	defer thief.Close()
	v := newVaultServer(t)
	s, _ := hashiCorpAt(t, v, nil)
	page := "<html><body>Log in, canary " + v.token + "</body></html>"
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter)
		says   string
	}{
		"a page":               {func(w http.ResponseWriter) { w.Header().Set("Content-Type", "text/html"); fmt.Fprint(w, page) }, "is not Vault's"},
		"a page of 403":        {func(w http.ResponseWriter) { w.WriteHeader(403); fmt.Fprint(w, page) }, "refuses the token"},
		"a page of 502":        {func(w http.ResponseWriter) { w.WriteHeader(502); fmt.Fprint(w, page) }, "status 502"},
		"JSON":                 {func(w http.ResponseWriter) { fmt.Fprint(w, `{"data":{"key":"canary"}}`) }, "is not Vault's"},
		"JSON of another kind": {func(w http.ResponseWriter) { fmt.Fprint(w, `[1]`) }, "is not Vault's"},
		"an endless answer": {func(w http.ResponseWriter) {
			fmt.Fprint(w, `{"data":{"data":{"key":"`)
			for range 64 {
				if _, err := fmt.Fprint(w, strings.Repeat("canary", 1<<14)); err != nil {
					return
				}
			}
		}, "is not Vault's"},
		"a redirect": {func(w http.ResponseWriter) { w.Header().Set("Location", thief.URL); w.WriteHeader(307) }, "redirects"},
		"no answer":  {func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, "does not answer"},
	} {
		v.set(func() { v.instead = func(w http.ResponseWriter, _ *http.Request) { c.answer(w) } })
		t.Run(name, func(t *testing.T) { refuses(t, s, "vault:secret/x#key", pool.CodeUnavailable, v.URL, c.says) })
	}
	if len(stolen) > 0 {
		t.Errorf("the token went elsewhere: %q", stolen)
	}
}

func TestHashiCorpIsVerified(t *testing.T) {
	t.Parallel()
	v := newVaultServer(t)
	v.put("secret/x", map[string]any{"key": "canary"})
	v.set(func() { v.instead = nil })
	s, _ := hashiCorpAt(t, v, func(h *HashiCorp) { h.CA = nil })
	refuses(t, s, "vault:secret/x#key", pool.CodeUnavailable, "does not answer", "certificate")
	s, _ = hashiCorpAt(t, v, func(h *HashiCorp) { h.Address = strings.Replace(h.Address, "127.0.0.1", "localhost", 1) })
	refuses(t, s, "vault:secret/x#key", pool.CodeUnavailable, "certificate")
	for address, says := range map[string]string{
		"http://vault.example:8200": "in clear", "vault.example:8200": "https://HOST:PORT", "https://u:p@vault.example": "https://HOST:PORT",
		"https://vault.example/v1/secret": "https://HOST:PORT", "https://": "https://HOST:PORT", "ftp://vault.example": "https://HOST:PORT",
	} {
		if _, err := New(Options{HashiCorp: HashiCorp{Address: address, TokenFile: "/t"}}); err == nil || !strings.Contains(err.Error(), "secrets.vault: address") || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, err := New(Options{HashiCorp: HashiCorp{Address: "http://127.0.0.1:8200", TokenFile: "/t", CA: []byte("x")}}); err == nil || !strings.Contains(err.Error(), "ca_file") {
		t.Errorf("%v", err)
	}
}

// Its reference may be anything that somebody typed.
func FuzzHashiCorpReference(f *testing.F) {
	for _, ref := range []string{"secret/a#b", "secret/a?version=2#b", "a/../b", "a/b/c", "#", "?version=1", "a/b#c#d", "é/b"} {
		f.Add(ref)
	}
	h := &hashiCorp{o: HashiCorp{Paths: []string{"secret/agents/*"}}}
	f.Fuzz(func(t *testing.T, ref string) {
		r, err := h.parse(ref)
		if err != nil {
			return
		}
		if full := r.mount + "/" + r.path; !strings.HasPrefix(full, "secret/agents/") || climbs(full) || strings.ContainsAny(full, "?#%\\\x00\n") || r.version < 0 {
			t.Errorf("%q is taken for %+v", ref, r)
		}
	})
}
