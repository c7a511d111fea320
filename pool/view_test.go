package pool_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// What TestWhatIsShownIsWhatARestartShows draws from. Secrets are few, so that several credentials have the same.
var (
	someNames     = []string{"p", "q", "r"}
	someMembers   = []string{"a", "b", "c", "d", "e", "f"}
	someSecrets   = []string{"sk-0", "sk-1", "sk-2"}
	someHosts     = []string{"one.example:443", "one.example:8443"}
	someProviders = []string{"", "codex"}
	someEndpoints = []string{"", "https://auth.example/token", "https://auth.example:9443/oauth/token", "https://auth.example/oauth/token"}
)

// shown is all that requests, and those who look, can find of the configuration.
func (b *bench) shown(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	fmt.Fprintln(&text, b.dump(t), b.Ports(), b.Hosts(), b.Placeholders(nil))
	for _, named := range append([][]string{nil, {"q", "p"}, {"nobody"}}, someNames[:1], someNames[1:2], someNames[2:]) {
		for _, host := range []string{"one.example", "auth.example", "chatgpt.com", "auth.openai.com"} {
			for _, port := range []uint16{443, 8443, 9443} {
				r, bound := b.Route(host, port, named)
				if !bound {
					continue
				}
				l, err := b.Acquire(t.Context(), r, nil)
				fmt.Fprintf(&text, "%v %s:%d %+v %q %v %v:", named, host, port, r, l.Member, l.Strip, err)
				for _, f := range append(slices.Clone(l.Inject), l.Also...) {
					fmt.Fprintf(&text, " %s: %s", f.Name, f.Value)
				}
				for _, path := range []string{"/token", "/oauth/token", "/revoke", "/oauth/revoke"} {
					fmt.Fprintf(&text, " %t %t", b.TokenEndpoint(r, path), b.RevocationEndpoint(r, path))
				}
				fmt.Fprintln(&text)
			}
		}
		fmt.Fprintln(&text, named, b.Placeholders(named))
	}
	for _, name := range someNames {
		tokens, err := b.AgentTokens(name)
		body, known := b.StandIn([]string{tokens.RefreshToken})
		fmt.Fprintf(&text, "%s: %v %t %s\n", name, err, known, body)
	}
	for _, token := range append([]string{"at-0", "rt-0", "at-1", "rt-1"}, someSecrets...) {
		body, known := b.StandIn([]string{token})
		fmt.Fprintf(&text, "%s: %t %s\n", token, known, body)
	}
	return text.String()
}

// TestWhatIsShownIsWhatARestartShows, whatever was changed and in what order: a change shows what it has changed, and a restart
// reads everything.
func TestWhatIsShownIsWhatARestartShows(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		b := newBench(t, nil)
		defer b.stop()
		tokens := 0
		for range rapid.IntRange(10, 30).Draw(rt, "changes") {
			err := b.changeSomething(t, rt, &tokens)
			if known := (*pool.Error)(nil); err != nil && !errors.As(err, &known) {
				rt.Fatal(err)
			}
			b.pass(time.Second)
		}
		before := b.shown(t)
		b.restart(t)
		if after := b.shown(t); after != before {
			rt.Fatalf("shown:\n%s\nafter a restart:\n%s", before, after)
		}
	})
}

func (b *bench) changeSomething(t *testing.T, rt *rapid.T, tokens *int) error {
	draw := func(of []string, what string) string { return rapid.SampledFrom(of).Draw(rt, what) }
	ctx, name, member := t.Context(), draw(someNames, "pool"), draw(someMembers, "credential")
	account := func() *pool.OAuthTokens {
		*tokens++
		return &pool.OAuthTokens{
			AccessToken: vault.NewSecret(fmt.Appendf(nil, "at-%d", *tokens)), RefreshToken: vault.NewSecret(fmt.Appendf(nil, "rt-%d", *tokens)),
			ExpiresAt: b.clock().Add(240 * time.Hour),
		}
	}
	secret := vault.NewSecret([]byte(draw(someSecrets, "secret")))
	switch rapid.IntRange(0, 11).Draw(rt, "change") {
	case 0, 1:
		_, err := b.AddCredential(ctx, pool.CredentialSpec{Name: member, Secret: secret})
		return err
	case 2:
		_, err := b.AddCredential(ctx, pool.CredentialSpec{Name: member, Type: pool.OAuth, OAuth: account(), TokenURL: draw(someEndpoints, "endpoint")})
		return err
	case 3:
		return b.RemoveCredential(ctx, member)
	case 4, 5, 6:
		p := pool.Pool{Name: name, Members: []string{member}, Provider: draw(someProviders, "provider")}
		if other := draw(someMembers, "other"); other != member {
			p.Members = append(p.Members, other)
		}
		if p.Provider == "" {
			host, port, err := pool.ParseHostPort(draw(someHosts, "host"))
			if err != nil {
				rt.Fatal(err)
			}
			p.Bindings = []pool.Binding{{Host: host, Port: port, Header: "Authorization: Bearer {token}"}}
		}
		_, err := b.CreatePool(ctx, p)
		return err
	case 7:
		return b.RemovePool(ctx, name)
	case 8:
		return b.AddMember(ctx, name, member)
	case 9:
		return b.RemoveMember(ctx, name, member)
	case 10:
		endpoint := draw(someEndpoints, "endpoint")
		_, err := b.UpdateCredential(ctx, member, pool.CredentialChange{OAuth: account(), TokenURL: &endpoint})
		if err != nil {
			_, err = b.UpdateCredential(ctx, member, pool.CredentialChange{Secret: &secret})
		}
		return err
	default:
		l, err := b.Acquire(ctx, pool.Route{Pool: name, Host: "one.example", Port: 443}, nil)
		if err == nil {
			_, err = b.Observe(ctx, l, pool.Answer{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"600"}}})
		}
		if out := (*pool.ExhaustedError)(nil); errors.Is(err, pool.ErrNoPool) || errors.As(err, &out) {
			return nil
		}
		return err
	}
}

// TestTheOldestServes of those that share a host, whichever of them was changed last, and then the next.
func TestTheOldestServes(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a")
	b.add(t, "b", "c", "d")
	serves := func(want string) {
		t.Helper()
		for _, named := range [][]string{nil, {"r", "q", "p"}} {
			if got, _ := b.Route(r.Host, r.Port, named); got.Pool != want {
				t.Errorf("of %v %q serves, want %q", named, got.Pool, want)
			}
		}
	}
	for name, member := range map[string]string{"q": "b", "r": "c"} {
		if _, err := b.CreatePool(t.Context(), pool.Pool{Name: name, Members: []string{member}, Provider: "openai"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.AddMember(t.Context(), "p", "d"); err != nil {
		t.Fatal(err)
	}
	serves("p")
	if err := b.RemovePool(t.Context(), "p"); err != nil {
		t.Fatal(err)
	}
	second, _ := b.Route(r.Host, r.Port, nil)
	if err := b.AddMember(t.Context(), second.Pool, "a"); err != nil {
		t.Fatal(err)
	}
	serves(second.Pool)
	if err := b.RemovePool(t.Context(), second.Pool); err != nil {
		t.Fatal(err)
	}
	if last, bound := b.Route(r.Host, r.Port, nil); !bound || last.Pool == second.Pool {
		t.Errorf("%t, %q", bound, last.Pool)
	}
}

// blindStore cannot be read while it is blind.
type blindStore struct {
	pool.Store
	blind *atomic.Bool
}

func (s blindStore) Config(ctx context.Context) (pool.Config, error) {
	if s.blind.Load() {
		return pool.Config{}, errors.New("the disk does not answer")
	}
	return s.Store.Config(ctx)
}

func (s blindStore) ConfigOf(ctx context.Context, name string, credentials []string) (pool.Config, error) {
	if s.blind.Load() {
		return pool.Config{}, errors.New("the disk does not answer")
	}
	return s.Store.ConfigOf(ctx, name, credentials)
}

// TestWhatCouldNotBeLookedAt is at the next change, whatever that is of.
func TestWhatCouldNotBeLookedAt(t *testing.T) {
	t.Parallel()
	var blind atomic.Bool
	b := newBench(t, nil)
	b.stop()
	b.wrap = func(s pool.Store) pool.Store { return blindStore{s, &blind} }
	b.start(t)
	b.add(t, "a", "b", "c")
	create := func(name, member string) error {
		_, err := b.CreatePool(t.Context(), pool.Pool{Name: name, Members: []string{member}, Bindings: []pool.Binding{
			{Host: name + ".example", Port: 443, Header: "Authorization: Bearer {token}"},
		}})
		return err
	}
	if err := create("p", "a"); err != nil {
		t.Fatal(err)
	}
	blind.Store(true)
	if err := create("q", "b"); err == nil {
		t.Fatal("nobody is told that it is not shown")
	}
	if err := b.RemovePool(t.Context(), "p"); err == nil {
		t.Fatal("nobody is told that it is still shown")
	}
	blind.Store(false)
	if err := create("r", "c"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"p": false, "q": true, "r": true} {
		if _, bound := b.Route(name+".example", 443, nil); bound != want {
			t.Errorf("%s: bound: %t", name, bound)
		}
	}
	before := b.shown(t)
	b.restart(t)
	if after := b.shown(t); after != before {
		t.Errorf("shown:\n%s\nafter a restart:\n%s", before, after)
	}
}

// TestRequestsWhileOthersChange: who has nothing to do with a change never notices it, and who has finds what was before it or
// what is after.
func TestRequestsWhileOthersChange(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a") // of the preset's host
	b.add(t, "b", "c", "d")
	binding := pool.Binding{Host: r.Host, Port: r.Port, Header: "Authorization: Bearer {token}"}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if got, bound := b.Route(r.Host, r.Port, nil); !bound || got.Pool != "p" {
					t.Errorf("routed to %q", got.Pool)
				}
				if l, err := b.Acquire(t.Context(), r, nil); err != nil || l.Member != "a" {
					t.Errorf("leased %q: %v", l.Member, err)
				}
				got, bound := b.Route(r.Host, r.Port, []string{"q"})
				if !bound {
					continue
				}
				l, err := b.Acquire(t.Context(), got, nil)
				if err != nil && !errors.Is(err, pool.ErrNoPool) || err == nil && string(l.Inject[0].Value) != "Bearer sk-"+l.Member {
					t.Errorf("leased %q: %v", l.Member, err)
				}
				_, _ = b.StandIn([]string{"sk-b"})
				_, _, _ = b.Hosts(), b.Tallies(), b.Held()
				if ports := b.Ports(); !slices.Equal(ports, []uint16{443}) {
					t.Errorf("ports %v", ports)
				}
			}
		})
	}
	for range 30 {
		_, err := b.CreatePool(t.Context(), pool.Pool{Name: "q", Members: []string{"b", "c"}, Bindings: []pool.Binding{binding}})
		err = errors.Join(err, b.AddMember(t.Context(), "q", "d"), b.RemoveMember(t.Context(), "q", "b"), b.RemovePool(t.Context(), "q"))
		if err != nil {
			t.Fatal(err)
		}
	}
	stop()
	wg.Wait()
}
