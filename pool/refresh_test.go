package pool_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// tokenServer redeems each refresh token once, and its predecessor again if grace is set.
type tokenServer struct {
	*httptest.Server
	mu       sync.Mutex
	good     string // the refresh token
	previous string
	grace    bool
	n        int
	fail     int           // status of the answers; 0: none fails
	code     string        // "error" of the failing ones
	later    string        // Retry-After of the failing ones
	body     string        // of the failing ones, if it is another
	life     time.Duration // of access tokens
	before   func()        // is called when a token was spent and before that is answered
	refusing func()        // is called before it fails

	respond func(w http.ResponseWriter, access, refresh string) // in its place, if it does not fail
}

func newTokenServer(t testing.TB) *tokenServer {
	s := &tokenServer{good: "rt-0", life: time.Hour}
	s.Server = httptest.NewTLSServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *tokenServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	asked := r.PostFormValue("refresh_token")
	w.Header().Set("Content-Type", "application/json")
	if s.fail != 0 || r.PostFormValue("grant_type") != "refresh_token" || (asked != s.good && (!s.grace || asked != s.previous)) {
		status, code := s.fail, s.code
		if status == 0 {
			status, code = 400, "invalid_grant"
		}
		if s.refusing != nil {
			s.refusing()
		}
		if s.later != "" {
			w.Header().Set("Retry-After", s.later)
		}
		w.WriteHeader(status)
		if s.body != "" {
			fmt.Fprint(w, s.body)
			return
		}
		fmt.Fprintf(w, `{"error":%q,"error_description":"of %s"}`, code, asked)
		return
	}
	s.previous, s.good = asked, fmt.Sprintf("rt-%d", s.n)
	if s.before != nil {
		s.before()
	}
	if s.respond != nil {
		s.respond(w, fmt.Sprintf("at-%d", s.n), s.good)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"access_token": fmt.Sprintf("at-%d", s.n), "refresh_token": s.good, "token_type": "Bearer", "expires_in": int(s.life.Seconds()),
	})
}

func (s *tokenServer) set(change func(s *tokenServer)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *tokenServer) requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

// account adds an OAuth account whose access token is good for so long.
func (b *bench) account(t testing.TB, s *tokenServer, name string, good time.Duration) {
	t.Helper()
	spec := pool.CredentialSpec{
		Name: name, Type: pool.OAuth, TokenURL: s.URL + "/oauth/token", ClientID: "app",
		OAuth: &pool.OAuthTokens{
			AccessToken: vault.NewSecret([]byte("at-0")), RefreshToken: vault.NewSecret([]byte("rt-0")), ExpiresAt: b.clock().Add(good),
		},
	}
	if _, err := b.AddCredential(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
}

// accounts is a pool of the account "a" and the key "b".
func accounts(t *testing.T, good time.Duration) (*bench, *tokenServer, pool.Route) {
	t.Helper()
	s := newTokenServer(t)
	b := newBench(t, func(o *pool.Options) { o.HTTP = s.Client() })
	b.mu.Lock()
	b.now = time.Now() // the endpoint's answers count from now
	b.mu.Unlock()
	b.account(t, s, "a", good)
	b.add(t, "b")
	if _, err := b.CreatePool(t.Context(), pool.Pool{Name: "p", Members: []string{"a", "b"}, Provider: "openai"}); err != nil {
		t.Fatal(err)
	}
	r, ok := b.Route("api.openai.com", 443, nil)
	if !ok {
		t.Fatal("the preset's host is not bound")
	}
	return b, s, r
}

func token(l pool.Lease) string { return strings.TrimPrefix(string(l.Inject[0].Value), "Bearer ") }

func TestAnAccountIsRefreshedOn401Once(t *testing.T) {
	t.Parallel()
	b, s, r := accounts(t, time.Hour)
	l := b.acquire(t, r)
	if token(l) != "at-0" || !l.Refreshable {
		t.Fatalf("leased %+v", l.Refreshable)
	}
	var wg sync.WaitGroup
	for range 20 { // all of them were sent with the old token
		wg.Go(func() {
			next, ok := b.Refresh(t.Context(), r, l)
			if !ok || next.Member != "a" || token(next) != "at-1" {
				t.Errorf("got %v, %s", ok, token(next))
			}
		})
	}
	wg.Wait()
	if n := s.requests(); n != 1 {
		t.Errorf("%d requests to the token endpoint, want 1", n)
	}
	b.restart(t)
	if _, known := b.StandIn([]string{"rt-0"}); !known { // an agent may have it still
		t.Error("the refresh token that was spent is not known any more")
	}
	if got := token(b.acquire(t, r)); got != "at-1" {
		t.Errorf("after a restart requests carry %s", got)
	}
	if next, ok := b.Refresh(t.Context(), r, b.acquire(t, r)); !ok || token(next) != "at-2" {
		t.Error("the refresh token was not kept")
	}
	if n := b.count(t, pool.EventRefresh); n != 2 {
		t.Errorf("%d refresh events, want 2", n)
	}
	if _, ok := b.Refresh(t.Context(), r, b.acquire(t, r, "a")); ok {
		t.Error("a static key was refreshed")
	}
}

func TestAnEndedTokenIsReplacedBeforeItIsUsed(t *testing.T) {
	t.Parallel()
	b, s, r := accounts(t, -time.Minute)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if l, err := b.Acquire(t.Context(), r, nil); err != nil || token(l) != "at-1" {
				t.Errorf("got %s, %v", token(l), err)
			}
		})
	}
	wg.Wait()
	if n := s.requests(); n != 1 {
		t.Errorf("%d requests to the token endpoint, want 1", n)
	}
}

// TestATokenThatNeverEnds has one good until after 2262, as "never" is written as the year 9999.
func TestATokenThatNeverEnds(t *testing.T) {
	t.Parallel()
	b, s, r := accounts(t, 250*365*24*time.Hour)
	b.restart(t)
	if ends := b.credential(t, "a").ExpiresAt; ends.Year() < 2262 {
		t.Errorf("it ends %v", ends)
	}
	if token(b.acquire(t, r)) != "at-0" || s.requests() != 0 {
		t.Errorf("it was replaced: %d requests", s.requests())
	}
}

func TestATokenIsReplacedAheadOfItsEnd(t *testing.T) {
	t.Parallel()
	// A tenth of its time ahead: a busy machine is given a token that lasts longer.
	for good := 2 * time.Second; ; good *= 2 {
		b, s, _ := accounts(t, good)
		for deadline := time.Now().Add(good + 10*time.Second); s.requests() == 0 && time.Now().Before(deadline); {
			time.Sleep(20 * time.Millisecond)
		}
		ahead := time.Until(b.clock().Add(good))
		if s.requests() == 1 && ahead > 0 {
			return
		}
		if good > 10*time.Second {
			t.Fatalf("%d requests, %s before its end", s.requests(), ahead)
		}
	}
}

func TestARejectedRefreshTokenIsSaidOnce(t *testing.T) {
	t.Parallel()
	b, s, r := accounts(t, time.Hour)
	s.set(func(s *tokenServer) { s.good = "another" })
	l := b.acquire(t, r)
	if _, ok := b.Refresh(t.Context(), r, l); ok {
		t.Fatal("refreshed with a token that is not accepted")
	}
	st := b.status(t)
	if st.Active != "b" || st.Members[0].State != pool.MemberCooldown || st.Members[0].Until.Sub(b.clock()) != 5*time.Minute ||
		!strings.Contains(st.Members[0].Reason, "invalid_grant") {
		t.Fatalf("status %+v", st)
	}
	for range 5 { // it is not asked again for a request's sake
		if _, ok := b.Refresh(t.Context(), r, l); ok {
			t.Fatal("refreshed")
		}
	}
	if n := s.requests(); n != 1 {
		t.Errorf("%d requests to the token endpoint, want 1", n)
	}
	b.pass(5 * time.Minute)
	b.restart(t) // which tries at once, and finds the same
	deadline := time.Now().Add(10 * time.Second)
	for b.status(t).Members[0].State != pool.MemberCooldown && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if s := b.status(t); s.Members[0].State != pool.MemberCooldown {
		t.Errorf("status %+v", s.Members[0])
	}
	if n := b.count(t, pool.EventRefreshFailed); n != 1 {
		t.Errorf("said %d times", n)
	}
	// New tokens from a person end it at once.
	s.set(func(s *tokenServer) { s.good = "rt-new" })
	if _, err := b.UpdateCredential(t.Context(), "a", pool.CredentialChange{OAuth: &pool.OAuthTokens{
		AccessToken: vault.NewSecret([]byte("at-new")), RefreshToken: vault.NewSecret([]byte("rt-new")), ExpiresAt: b.clock().Add(time.Hour),
	}}); err != nil {
		t.Fatal(err)
	}
	if s := b.status(t); s.State != pool.StateHealthy {
		t.Errorf("status %+v", s)
	}
	l = b.acquire(t, r, "b")
	if next, ok := b.Refresh(t.Context(), r, l); !ok || token(next) == "at-new" {
		t.Errorf("not refreshed with the new token: %v", ok)
	}
}

// TestARejectionIsKnownInEveryShape: RFC 6749's error is a string, OpenAI's an object.
func TestARejectionIsKnownInEveryShape(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status     int
		body, code string
	}{
		{401, `{"error":{"message":"Your refresh token has already been used to generate a new access token.","type":"invalid_request_error","param":null,"code":"refresh_token_reused"}}`, "refresh_token_reused"},
		{401, `{"error":{"message":"Could not validate your token.","type":"invalid_request_error","param":null,"code":"token_expired"}}`, "token_expired"},
		{400, `{"type":"error","error":{"type":"invalid_grant","message":"m"}}`, "invalid_grant"},
		{400, `{"error":"invalid_token"}`, "invalid_token"},
		{401, `{"error":{"type":"invalid_request_error","code":"invalid_client"}}`, ""},
		{429, `{"type":"error","error":{"type":"rate_limit_error","message":"m"}}`, ""},
		{401, `{"detail":{"error":{"message":"m","code":"refresh_token_reused"}}}`, "refresh_token_reused"},
		{401, `<html>refresh_token_reused</html>`, ""},
	} {
		b, s, r := accounts(t, time.Hour)
		s.set(func(s *tokenServer) { s.fail, s.body = c.status, c.body })
		if _, ok := b.Refresh(t.Context(), r, b.acquire(t, r)); ok {
			t.Fatalf("%s: refreshed", c.body)
		}
		member, said := b.status(t).Members[0], b.count(t, pool.EventRefreshFailed)
		if c.code == "" {
			if member.State == pool.MemberCooldown || said != 0 {
				t.Errorf("%s: %+v, said %d times", c.body, member, said)
			}
		} else if member.State != pool.MemberCooldown || !strings.Contains(member.Reason, c.code) || said != 1 {
			t.Errorf("%s: %+v, said %d times", c.body, member, said)
		}
	}
}

func TestAnEndpointThatFailsTakesNoMemberOut(t *testing.T) {
	t.Parallel()
	b, s, r := accounts(t, time.Hour)
	s.set(func(s *tokenServer) { s.fail, s.code = 503, "temporarily_unavailable" })
	l := b.acquire(t, r)
	if _, ok := b.Refresh(t.Context(), r, l); ok {
		t.Fatal("refreshed by an endpoint that failed")
	}
	if st := b.status(t); st.State != pool.StateHealthy || b.count(t, pool.EventRefreshFailed) != 0 {
		t.Fatalf("status %+v", st)
	}
	s.set(func(s *tokenServer) { s.fail = 0 })
	if _, ok := b.Refresh(t.Context(), r, l); ok || s.requests() != 1 {
		t.Fatal("the endpoint is asked without a pause")
	}
	b.pass(10 * time.Second)
	if next, ok := b.Refresh(t.Context(), r, l); !ok || token(next) == "at-0" {
		t.Fatal("not tried again after the pause")
	}
}

// TestAnEndpointIsTriedAgainWhateverTheClockIsSetTo: what failed is left alone for a pause, not until a clock that was fast
// is overtaken.
func TestAnEndpointIsTriedAgainWhateverTheClockIsSetTo(t *testing.T) {
	t.Parallel()
	b, s, r := accounts(t, 12*time.Hour)
	s.set(func(s *tokenServer) { s.fail, s.code = 503, "temporarily_unavailable" })
	l := b.acquire(t, r)
	if _, ok := b.Refresh(t.Context(), r, l); ok {
		t.Fatal("refreshed by an endpoint that failed")
	}
	s.set(func(s *tokenServer) { s.fail = 0 })
	for _, by := range []time.Duration{-time.Hour, time.Hour} {
		b.pass(by)
		if err := b.ClockSet(t.Context(), by, []byte("anchor")); err != nil {
			t.Fatal(err)
		}
		if _, ok := b.Refresh(t.Context(), r, l); ok || s.requests() != 1 {
			t.Fatalf("set by %s: the endpoint is asked without a pause", by)
		}
	}
	b.pass(10*time.Second - time.Hour)
	if err := b.ClockSet(t.Context(), -time.Hour, []byte("anchor")); err != nil {
		t.Fatal(err)
	}
	if next, ok := b.Refresh(t.Context(), r, l); !ok || token(next) == "at-0" {
		t.Fatal("not tried again after the pause")
	}
}

// TestAnAccountInAnothersPlaceIsRefreshedAtOnce: what became of the one that had its name before is not its affair.
func TestAnAccountInAnothersPlaceIsRefreshedAtOnce(t *testing.T) {
	t.Parallel()
	b, s, r := accounts(t, time.Hour)
	s.set(func(s *tokenServer) { s.good = "another" })
	if _, ok := b.Refresh(t.Context(), r, b.acquire(t, r)); ok {
		t.Fatal("refreshed with a token that is not accepted")
	}
	if err := errors.Join(b.RemoveMember(t.Context(), "p", "a"), b.RemoveCredential(t.Context(), "a")); err != nil {
		t.Fatal(err)
	}
	s.set(func(s *tokenServer) { s.good = "rt-0" })
	b.account(t, s, "a", time.Hour)
	if err := b.AddMember(t.Context(), "p", "a"); err != nil {
		t.Fatal(err)
	}
	if next, ok := b.Refresh(t.Context(), r, b.acquire(t, r, "b")); !ok || token(next) == "at-0" {
		t.Errorf("not refreshed: %v", ok)
	}
}

// TestTokensThatHaveEndedAlwaysAreAskedForInMeasure: by a clock that is far ahead of the endpoint's.
func TestTokensThatHaveEndedAlwaysAreAskedForInMeasure(t *testing.T) {
	t.Parallel()
	s := newTokenServer(t)
	b := newBench(t, func(o *pool.Options) { o.HTTP = s.Client() })
	b.mu.Lock()
	b.now = time.Now().Add(24 * time.Hour)
	b.mu.Unlock()
	b.account(t, s, "a", 0)
	eventually(t, "it is refreshed ahead", func() bool { return s.requests() > 0 })
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if n := s.requests(); n > 2 {
			t.Fatalf("%d requests to the token endpoint in half a second", n)
		}
	}
}

func TestTokensFromAPersonWin(t *testing.T) {
	t.Parallel()
	b, s, r := accounts(t, time.Hour)
	spent, given := make(chan struct{}), make(chan struct{})
	s.set(func(s *tokenServer) { s.before = func() { close(spent); <-given; s.before = nil } })
	l := b.acquire(t, r)
	done := make(chan pool.Lease)
	go func() {
		next, _ := b.Refresh(t.Context(), r, l)
		done <- next
	}()
	<-spent
	if _, err := b.UpdateCredential(t.Context(), "a", pool.CredentialChange{OAuth: &pool.OAuthTokens{
		AccessToken: vault.NewSecret([]byte("at-mine")), RefreshToken: vault.NewSecret([]byte("rt-mine")), ExpiresAt: b.clock().Add(time.Hour),
	}}); err != nil {
		t.Fatal(err)
	}
	close(given)
	if next := <-done; token(next) != "at-mine" {
		t.Errorf("requests go on with %s", token(next))
	}
	if got := token(b.acquire(t, r)); got != "at-mine" {
		t.Errorf("requests carry %s", got)
	}
}

func TestWhoWaitsForARefreshMayGo(t *testing.T) {
	t.Parallel()
	b, s, r := accounts(t, time.Hour)
	given := make(chan struct{})
	s.set(func(s *tokenServer) { s.before = func() { <-given; s.before = nil } })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	l := b.acquire(t, r)
	if _, ok := b.Refresh(ctx, r, l); ok || !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Error("did not wait, or waited for ever")
	}
	close(given)
	if next, ok := b.Refresh(t.Context(), r, l); !ok || token(next) != "at-1" {
		t.Error("the refresh that was under way is lost")
	}
}

// Clocks differ. A token that has ended by this host's clock may be good for the provider:
// where there is no other to be had it is tried. (That it has ended by the provider's clock
// alone is a 401, TestAnAccountIsRefreshedOn401Once.)
func TestClocksThatDiffer(t *testing.T) {
	t.Parallel()
	s := newTokenServer(t)
	s.fail, s.code = 503, "temporarily_unavailable"
	b := newBench(t, func(o *pool.Options) { o.HTTP = s.Client() })
	b.mu.Lock()
	b.now = time.Now()
	b.mu.Unlock()
	b.account(t, s, "a", -time.Minute)
	r := b.poolOf(t, "a")
	l := b.acquire(t, r)
	if l.Member != "a" || token(l) != "at-0" {
		t.Fatalf("a request carries %s of %s", token(l), l.Member)
	}
	if b.answer(t, l, 200, "") != pool.OutcomeOK || b.status(t).State != pool.StateHealthy {
		t.Error("a token that works takes its member out")
	}
	s.set(func(s *tokenServer) { s.fail = 0 })
	b.pass(10 * time.Minute)
	if got := token(b.acquire(t, r)); got == "at-0" {
		t.Error("not refreshed once the endpoint is back")
	}
}

// TestARefreshTokenIsSentNowhereElse, wherever the endpoint says that it is now.
func TestARefreshTokenIsSentNowhereElse(t *testing.T) {
	t.Parallel()
	var stolen atomic.Int64
	thief := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { stolen.Add(1) }))
	defer thief.Close()
	endpoint := httptest.NewTLSServer(http.RedirectHandler(thief.URL, http.StatusTemporaryRedirect))
	defer endpoint.Close()
	roots := x509.NewCertPool()
	roots.AddCert(endpoint.Certificate())
	roots.AddCert(thief.Certificate())
	resp, err := pool.TokenClient(roots).PostForm(endpoint.URL, url.Values{"refresh_token": {"rt-0"}})
	if err == nil {
		_ = resp.Body.Close()
	}
	if err == nil || stolen.Load() != 0 {
		t.Errorf("%v, and %d requests went elsewhere", err, stolen.Load())
	}
}
