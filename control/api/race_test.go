package api

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sluice-proxy/sluice/control"
	"github.com/sluice-proxy/sluice/pool"
)

// Many who change the same pool at once, over the socket and over TCP: each is
// answered that it was done or that it collided, the pool is whole afterwards, and
// the log has as many changes as were answered 200.
func TestConcurrentChanges(t *testing.T) {
	t.Parallel()
	s := newServed(t, io.Discard)
	address, token := s.serveTCP(t)
	socket, err := Dial(s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	tcp, err := DialURL("http://"+address, token, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	ctx, secret := t.Context(), "s"
	names := []string{"a", "b", "c", "d", "e"}
	for _, name := range names {
		if _, err := socket.AddCredential(ctx, CredentialSpec{Name: name, Secret: &secret}); err != nil {
			t.Fatal(err)
		}
	}
	provider := "openai"
	for _, spec := range []PoolSpec{{Name: "p", Members: names[:2], Provider: &provider}, {Name: "q", Members: names[2:3], Provider: &provider}} {
		if _, err := socket.CreatePool(ctx, spec); err != nil {
			t.Fatal(err)
		}
	}
	var done [4]atomic.Int64
	kinds := []string{"pool_rotated", "pool_cleared", "member_added", "member_removed"}
	var all sync.WaitGroup
	for g := range 12 {
		client := socket
		if g%2 == 0 {
			client = tcp
		}
		all.Go(func() {
			for i := range 30 {
				var err error
				kind := (g + i) % len(kinds)
				name, credential := []string{"p", "q"}[g/2%2], names[3+(g+i/4)%2]
				switch kind {
				case 0:
					_, err = client.RotatePool(ctx, name)
				case 1:
					_, err = client.ClearPool(ctx, name, "")
				case 2:
					_, err = client.AddMember(ctx, name, credential)
				case 3:
					_, err = client.RemoveMember(ctx, name, credential)
				}
				var known *pool.Error
				switch {
				case err == nil:
					done[kind].Add(1)
				case !errors.As(err, &known) || known.Code != pool.CodeConflict && known.Code != pool.CodeNotFound:
					t.Errorf("%s: %v", kinds[kind], err)
				}
			}
		})
	}
	all.Wait()

	held := make(map[string]string)
	for _, name := range []string{"p", "q"} {
		p, err := socket.Pool(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		active := 0
		for _, m := range p.Members {
			if held[m.Name] != "" {
				t.Errorf("%s is in %s and in %s", m.Name, held[m.Name], name)
			}
			held[m.Name] = name
			if m.State == Active {
				active++
			}
		}
		if active != 1 || p.State != Healthy {
			t.Errorf("%s is not whole: %+v", name, p)
		}
	}
	credentials, err := socket.Credentials(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range credentials {
		if c.Pool != held[c.Name] {
			t.Errorf("%s says it is in %q, and is in %q", c.Name, c.Pool, held[c.Name])
		}
	}
	events, err := socket.Events(ctx, 1000)
	if err != nil {
		t.Fatal(err)
	}
	logged := make(map[string]int64)
	for _, e := range events {
		logged[e.Kind]++
		if e.Actor != "tcp:laptop@127.0.0.1" && !strings.HasPrefix(e.Actor, "unix:") {
			t.Errorf("%+v", e)
		}
	}
	for i, kind := range kinds {
		if n := done[i].Load(); logged[kind] != n || n == 0 {
			t.Errorf("%s: %d were answered 200, %d are in the log", kind, n, logged[kind])
		}
	}
}

// Of many who have seen the same pool and want it changed, one gets that.
func TestOneLooksAndWins(t *testing.T) {
	t.Parallel()
	s := newServed(t, io.Discard)
	for _, name := range []string{"a", "b", "c"} {
		send(s, "POST", "/api/credentials", fmt.Sprintf(`{"name":%q,"secret":"s"}`, name))
	}
	send(s, "POST", "/api/pools", `{"name":"p","members":["a","b","c"],"provider":"openai"}`)
	seen := send(s, "GET", "/api/pools/p", "").Header().Get("ETag")
	if again := send(s, "GET", "/api/pools/p", "").Header().Get("ETag"); seen == "" || again != seen {
		t.Fatalf("the ETag of the same pool is %q and then %q", seen, again)
	}
	client, err := Dial(s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var won, lost atomic.Int64
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			answer, err := client.raw.RotatePool(t.Context(), "p", &RotatePoolParams{IfMatch: &seen})
			if err != nil {
				t.Error(err)
				return
			}
			defer answer.Body.Close()
			switch answer.StatusCode {
			case http.StatusOK:
				won.Add(1)
			case http.StatusConflict:
				lost.Add(1)
			}
		})
	}
	all.Wait()
	status, err := client.Pool(t.Context(), "p")
	if won.Load() != 1 || lost.Load() != 15 || err != nil || status.Active != "b" {
		t.Errorf("%d won, %d lost, %q is active, %v", won.Load(), lost.Load(), status.Active, err)
	}
	any := "*"
	if answer, err := client.raw.RotatePool(t.Context(), "p", &RotatePoolParams{IfMatch: &any}); err != nil || answer.StatusCode != 200 {
		t.Errorf("If-Match: *: %v, %v", answer, err)
	} else {
		answer.Body.Close()
	}
}

// Another member, order, state or setting is another version; time is none.
func TestVersion(t *testing.T) {
	t.Parallel()
	base := pool.PoolStatus{Name: "p", Members: []pool.MemberStatus{{Name: "a"}, {Name: "b"}}, Active: "a"}
	seen := map[string]bool{control.Version(base): true}
	agent := base
	if agent.Agent = (&pool.AgentTokens{AccessToken: "x"}); !seen[control.Version(agent)] {
		t.Error("what an agent may hold is no change of the pool")
	}
	for _, change := range []func(*pool.PoolStatus){
		func(p *pool.PoolStatus) { p.Members = p.Members[:1] },
		func(p *pool.PoolStatus) { p.Members = []pool.MemberStatus{p.Members[1], p.Members[0]} },
		func(p *pool.PoolStatus) { p.Active = "b" },
		func(p *pool.PoolStatus) { p.AuthResetTarget = "x" },
		func(p *pool.PoolStatus) {
			p.Members = []pool.MemberStatus{p.Members[0], {Name: "b", State: pool.MemberParked}}
		},
	} {
		p := base
		change(&p)
		if v := control.Version(p); v == "" || seen[v] {
			t.Errorf("%+v has the version of another one", p)
		} else {
			seen[v] = true
		}
	}
}
