package exchange

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestHeldRequest is refused by both members, waits, and is sent again to one of them,
// whole; a pool that holds nothing, or that waits in vain, answers. Each request is
// held once at most.
func TestHeldRequest(t *testing.T) {
	t.Parallel()
	for _, h2 := range []bool{false, true} {
		for name, c := range map[string]struct {
			refusals int32 // that the origin answers with before it is good
			back     bool  // whether waiting helps
			status   int
			asked    int32
			holds    int
		}{
			"back":           {2, true, 200, 3, 1},
			"not back":       {2, false, 429, 2, 1},
			"refused again":  {4, true, 429, 4, 1},
			"one is refused": {1, true, 200, 2, 0},
		} {
			t.Run(map[bool]string{true: "h2 ", false: "h1 "}[h2]+name, func(t *testing.T) {
				t.Parallel()
				pools := newMembers("a", "b")
				pools.hold = func(context.Context) bool {
					if c.back {
						pools.restore()
					}
					return c.back
				}
				var asked atomic.Int32
				protos := []string{"http/1.1"}
				if h2 {
					protos = []string{"h2", "http/1.1"}
				}
				b := newBench(t, setup{pools: pools, protos: protos, handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					body, err := io.ReadAll(r.Body)
					if err != nil || string(body) != "the whole body" {
						t.Errorf("body %q, %v", body, err)
					}
					if asked.Add(1) <= c.refusals {
						w.WriteHeader(429)
					}
				})})
				resp, err := b.client(h2).Post("https://"+testHost+"/", "text/plain", strings.NewReader("the whole body"))
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != c.status || asked.Load() != c.asked || pools.holds != c.holds {
					t.Errorf("status %d after %d attempts and %d holds, want %d, %d, %d", resp.StatusCode, asked.Load(), pools.holds, c.status, c.asked, c.holds)
				}
			})
		}
	}
}

// TestAHeldClientThatHangsUp gives its place up at once.
func TestAHeldClientThatHangsUp(t *testing.T) {
	t.Parallel()
	for _, h2 := range []bool{false, true} {
		t.Run(map[bool]string{true: "h2", false: "h1"}[h2], func(t *testing.T) {
			t.Parallel()
			holding, left := make(chan struct{}), make(chan struct{})
			pools := newMembers("a")
			pools.out["a"] = true
			pools.hold = func(ctx context.Context) bool {
				close(holding)
				<-ctx.Done()
				close(left)
				return false
			}
			protos := []string{"http/1.1"}
			if h2 {
				protos = []string{"h2", "http/1.1"}
			}
			b := newBench(t, setup{pools: pools, protos: protos, handler: http.NotFoundHandler()})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				<-holding
				cancel()
			}()
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+testHost+"/", strings.NewReader("x"))
			if err != nil {
				t.Fatal(err)
			}
			if resp, err := b.client(h2).Do(req); err == nil {
				resp.Body.Close()
				t.Errorf("answered %d", resp.StatusCode)
			}
			select {
			case <-left:
			case <-time.After(5 * time.Second):
				t.Error("a request whose client has left is still held")
			}
		})
	}
}
