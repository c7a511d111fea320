package pool_test

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// TestNoAccountIsLostToAnOddAnswer: the refresh token is spent with whatever answer gives a
// new one, so that is taken.
func TestNoAccountIsLostToAnOddAnswer(t *testing.T) {
	t.Parallel()
	const unknown = time.Duration(0)
	jwt := func(claims string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	for name, c := range map[string]struct {
		kind, body string // %[1]s and %[2]s are the tokens, %[3]s is an access token that says when it ends
		life       time.Duration
	}{
		"usual":               {"application/json", `{"access_token":"%[1]s","refresh_token":"%[2]s","token_type":"Bearer","expires_in":3600}`, time.Hour},
		"a text":              {"application/json", `{"access_token":"%[1]s","refresh_token":"%[2]s","expires_in":"3600"}`, time.Hour},
		"a fraction":          {"application/json", `{"access_token":"%[1]s","refresh_token":"%[2]s","expires_in":3600.5}`, time.Hour},
		"a fraction, text":    {"application/json", `{"access_token":"%[1]s","refresh_token":"%[2]s","expires_in":"3600.0"}`, time.Hour},
		"too long":            {"application/json", `{"access_token":"%[1]s","refresh_token":"%[2]s","expires_in":99999999999999999999}`, 1<<31*time.Second - time.Second},
		"no life":             {"application/json", `{"access_token":"%[1]s","refresh_token":"%[2]s"}`, unknown},
		"null":                {"application/json", `{"access_token":"%[1]s","refresh_token":"%[2]s","expires_in":null,"error":null}`, unknown},
		"nothing":             {"application/json", `{"access_token":"%[1]s","refresh_token":"%[2]s","expires_in":""}`, unknown},
		"over already":        {"application/json", `{"access_token":"%[1]s","refresh_token":"%[2]s","expires_in":-5}`, unknown},
		"zero":                {"application/json", `{"access_token":"%[1]s","refresh_token":"%[2]s","expires_in":0}`, unknown},
		"an object":           {"application/json", `{"access_token":"%[1]s","refresh_token":"%[2]s","expires_in":{"s":1}}`, unknown},
		"words":               {"application/json", `{"access_token":"%[1]s","refresh_token":"%[2]s","expires_in":"soon","token_type":7}`, unknown},
		"an error that is no": {"application/json", `{"access_token":"%[1]s","refresh_token":"%[2]s","expires_in":3600,"error":{}}`, time.Hour},
		"JSON called text":    {"text/plain; charset=utf-8", `{"access_token":"%[1]s","refresh_token":"%[2]s","expires_in":3600}`, time.Hour},
		"JSON called a form":  {"application/x-www-form-urlencoded", `{"access_token":"%[1]s","refresh_token":"%[2]s","expires_in":3600}`, time.Hour},
		"JSON called HTML":    {"text/html", "\ufeff" + ` {"access_token":"%[1]s","refresh_token":"%[2]s","expires_in":3600}`, time.Hour},
		"a form":              {"application/x-www-form-urlencoded", "access_token=%[1]s&refresh_token=%[2]s&expires_in=3600\n", time.Hour},
		"a form called JSON":  {"application/json", "access_token=%[1]s&refresh_token=%[2]s&expires_in=3600", time.Hour},
		"cut off behind it":   {"application/json", `{"access_token":"%[1]s","refresh_token":"%[2]s","expires_in":3600}` + "\x00", time.Hour},
		"the token says when": {"application/json", `{"access_token":"%[3]s","refresh_token":"%[2]s"}`, 2 * time.Hour},
		"the token says past": {"application/json", `{"access_token":"` + jwt(`{"exp":1000000000}`) + `","refresh_token":"%[2]s"}`, unknown},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, s, r := accounts(t, time.Hour)
			s.set(func(s *tokenServer) {
				s.respond = func(w http.ResponseWriter, access, refresh string) {
					w.Header().Set("Content-Type", c.kind)
					ends := jwt(fmt.Sprintf(`{"exp":%d}`, time.Now().Add(2*time.Hour).Unix()))
					whole, cut := strings.CutSuffix(fmt.Sprintf(c.body, access, refresh, ends), "\x00")
					_, _ = io.WriteString(w, whole)
					if cut {
						_ = http.NewResponseController(w).Flush()
						panic(http.ErrAbortHandler)
					}
				}
			})
			first := b.acquire(t, r)
			next, ok := b.Refresh(t.Context(), r, first)
			if !ok || token(next) == token(first) {
				t.Fatalf("refreshed %t: %s", ok, shown(next))
			}
			at := b.credential(t, "a").ExpiresAt
			if life := time.Until(at); at.IsZero() != (c.life == unknown) || c.life != unknown && (life < c.life-time.Minute || life > c.life+time.Minute) {
				t.Errorf("it ends at %s, want that in %s", at, c.life)
			}
			s.set(func(s *tokenServer) { s.respond = nil })
			if _, ok := b.Refresh(t.Context(), r, next); !ok {
				t.Error("the new refresh token is lost")
			}
		})
	}
}

// An answer that gives nothing says nothing of the account either.
func TestAnAnswerWithoutTokens(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"", "{}", "<html>later</html>", `{"access_token":5}`, `{"refresh_token":"rt-x"}`, "refresh_token=rt-x", "[]", "%zz"} {
		b, s, r := accounts(t, time.Hour)
		s.set(func(s *tokenServer) {
			s.respond = func(w http.ResponseWriter, _, _ string) { _, _ = io.WriteString(w, body) }
		})
		if _, ok := b.Refresh(t.Context(), r, b.acquire(t, r)); ok {
			t.Errorf("%q: refreshed", body)
		}
		if st := b.status(t); st.State != pool.StateHealthy || b.count(t, pool.EventRefreshFailed) != 0 {
			t.Errorf("%q: %+v", body, st)
		}
	}
}

// lines is a log that is read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// TestWhatAnEndpointRepeatsIsNotLogged, in whatever of its answer it stands.
func TestWhatAnEndpointRepeatsIsNotLogged(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter)
		says   string
	}{
		"a code":        {func(w http.ResponseWriter) { w.WriteHeader(503); fmt.Fprint(w, `{"error":"temporarily_unavailable"}`) }, "503 temporarily_unavailable"},
		"a sentence":    {func(w http.ResponseWriter) { w.WriteHeader(503); fmt.Fprint(w, `{"error":"not now, rt-0"}`) }, "answered 503"},
		"in prose":      {func(w http.ResponseWriter) { w.WriteHeader(500); fmt.Fprint(w, `rt-0 failed`) }, "answered 500"},
		"a redirection": {func(w http.ResponseWriter) { w.Header().Set("Location", "/login?of=rt-0"); w.WriteHeader(302) }, "redirects"},
		"a good answer": {func(w http.ResponseWriter) { fmt.Fprint(w, `{"access_token":["rt-0"]}`) }, "access_token"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTokenServer(t)
			s.respond = func(w http.ResponseWriter, _, _ string) { c.answer(w) }
			roots := x509.NewCertPool()
			roots.AddCert(s.Certificate())
			var log lines
			b := newBench(t, func(o *pool.Options) {
				o.HTTP, o.Log = pool.TokenClient(roots), slog.New(slog.NewTextHandler(&log, nil))
			})
			b.account(t, s, "a", time.Hour)
			r := b.poolOf(t, "a")
			if _, ok := b.Refresh(t.Context(), r, b.acquire(t, r)); ok {
				t.Fatal("refreshed")
			}
			b.stop()
			if got := log.text.String(); strings.Contains(got, "rt-0") || !strings.Contains(got, c.says) {
				t.Errorf("want %q: %s", c.says, got)
			}
		})
	}
}

// TestOneLoginIsOneAccount: of two that share a refresh token the first to be refreshed spends
// it for both.
func TestOneLoginIsOneAccount(t *testing.T) {
	t.Parallel()
	b, _, r := accounts(t, time.Hour)
	tokens := func(refresh string) *pool.OAuthTokens {
		return &pool.OAuthTokens{AccessToken: vault.NewSecret([]byte("at")), RefreshToken: vault.NewSecret([]byte(refresh)), ExpiresAt: b.clock().Add(time.Hour)}
	}
	add := func(name, refresh string) error {
		_, err := b.AddCredential(t.Context(), pool.CredentialSpec{Name: name, Type: pool.OAuth, OAuth: tokens(refresh)})
		return err
	}
	update := func(name, refresh string) error {
		_, err := b.UpdateCredential(t.Context(), name, pool.CredentialChange{OAuth: tokens(refresh)})
		return err
	}
	refused := func(what string, err error) {
		t.Helper()
		if known, ok := errors.AsType[*pool.Error](err); !ok || known.Code != pool.CodeConflict || !strings.Contains(err.Error(), `"a"`) || strings.Contains(err.Error(), "rt-") {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("the same once more", add("twin", "rt-0"))
	if err := add("other", "rt-other"); err != nil {
		t.Fatal(err)
	}
	refused("the same for another", update("other", "rt-0"))
	if _, ok := b.Refresh(t.Context(), r, b.acquire(t, r)); !ok {
		t.Fatal("not refreshed")
	}
	refused("one that is spent", add("twin", "rt-0"))
	refused("the one that took its place", add("twin", "rt-1"))
	if err := update("a", "rt-1"); err != nil {
		t.Errorf("its own: %v", err)
	}
	if all, err := b.Credentials(t.Context()); err != nil || len(all) != 3 {
		t.Errorf("%d credentials, want 3: %v", len(all), err)
	}
}
