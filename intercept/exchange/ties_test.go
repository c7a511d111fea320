package exchange

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-proxy/sluice/pool"
)

// accounts is an upstream whose members each keep their own responses and files.
type accounts struct {
	mu    sync.Mutex
	made  map[string]string // who made it
	out   map[string]bool
	asked []string
	n     int
}

func (u *accounts) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	body = decode(body, r.Header.Get("Content-Encoding"), 64<<20)
	u.mu.Lock()
	defer u.mu.Unlock()
	who := member(r)
	u.asked = append(u.asked, who)
	if u.out[who] {
		refuse(w)
		return
	}
	for id, maker := range u.made {
		if maker != who && (strings.Contains(string(body), `"`+id+`"`) || strings.Contains(r.URL.Path, id)) {
			w.WriteHeader(404)
			return
		}
	}
	u.n++
	id := fmt.Sprintf("resp_%04d", u.n)
	u.made[id] = who
	switch r.URL.Query().Get("as") {
	case "stream":
		w.Header().Set("Content-Type", "text/event-stream")
		for _, kind := range []string{"created", "completed"} {
			fmt.Fprintf(w, "data: {\"type\":\"response.%s\",\"response\":{\"id\":%q}}\n\n", kind, id)
			_ = http.NewResponseController(w).Flush()
		}
	case "gzip":
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		fmt.Fprintf(z, `{"id":%q}`, id)
		_ = z.Close()
	default:
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"object":"response","id":%q,"got":%d}`, id, len(body))
	}
}

func (u *accounts) took() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	asked := u.asked
	u.asked = nil
	return asked
}

// post creates a response that goes on from another one, and returns its id.
func post(t *testing.T, c *http.Client, as, previous string, padding io.Reader) (*http.Response, string) {
	t.Helper()
	head := fmt.Sprintf(`{"model":"m","previous_response_id":%q,"input":"`, previous)
	r := newRequest("POST", io.MultiReader(strings.NewReader(head), padding, strings.NewReader(`"}`)))
	r.URL.Path, r.URL.RawQuery = "/v1/responses", "as="+as
	r.Header.Set("Content-Type", "application/json")
	resp, body := ask(t, c, r)
	body = string(decode([]byte(body), resp.Header.Get("Content-Encoding"), 1<<20))
	if i := strings.Index(body, "resp_"); i >= 0 {
		return resp, body[i:min(len(body), i+9)]
	}
	return resp, body
}

// TestTiedRequests: a conversation stays with the account that holds it, across a
// rotation, in every shape of body and answer.
func TestTiedRequests(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		k, route := newKeeper(t)
		up := &accounts{made: map[string]string{}, out: map[string]bool{}}
		b := newBench(t, setup{
			protos: protos, route: &route, change: func(o *Options) { o.Pools, o.Ties = k, k; o.MaxReplayBody = 4 << 20 }, handler: up,
		})
		c := b.client(h2)
		ids := make(map[string]string)
		for _, as := range []string{"json", "stream", "gzip"} {
			resp, id := post(t, c, as, "", strings.NewReader(""))
			if resp.StatusCode != 200 || !strings.HasPrefix(id, "resp_") {
				t.Fatalf("%s: %d %q", as, resp.StatusCode, id)
			}
			ids[as] = id
		}
		if err := k.Rotate(t.Context(), "p"); err != nil {
			t.Fatal(err)
		}
		up.took()
		for as, id := range ids {
			for name, size := range map[string]int64{"short": 10, "long": 300 << 10, "longer than is kept": 6 << 20} {
				padding := io.LimitReader(endless{}, size)
				if resp, body := post(t, c, as, id, padding); resp.StatusCode != 200 {
					t.Errorf("%s, %s: %d %s", as, name, resp.StatusCode, body)
				}
				if got := up.took(); !slices.Equal(got, []string{"a"}) {
					t.Errorf("%s, %s: %q were asked", as, name, got)
				}
			}
		}
		for _, encoding := range []string{"gzip", "zstd", "br"} {
			text := fmt.Sprintf(`{"model":"m","input":%q,"previous_response_id":%q}`, strings.Repeat("word ", 100<<10), ids["json"])
			r := newRequest("POST", strings.NewReader(compressed(encoding, text)))
			r.URL.Path, r.Header = "/v1/responses", http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {encoding}}
			if resp, body := ask(t, c, r); resp.StatusCode != 200 {
				t.Errorf("compressed, %s: %d %s", encoding, resp.StatusCode, body)
			}
			if got := up.took(); !slices.Equal(got, []string{"a"}) {
				t.Errorf("compressed, %s: %q were asked", encoding, got)
			}
		}
		// Its own path, without a body.
		r := newRequest("GET", nil)
		r.URL.Path = "/v1/responses/" + ids["json"]
		if resp, body := ask(t, c, r); resp.StatusCode != 200 {
			t.Errorf("by path: %d %s", resp.StatusCode, body)
		}
		if got := up.took(); !slices.Equal(got, []string{"a"}) {
			t.Errorf("by path: %q were asked", got)
		}
		if resp, _ := post(t, c, "json", "", strings.NewReader("anew")); resp.StatusCode != 200 {
			t.Errorf("a new conversation: %d", resp.StatusCode)
		}
		if got := up.took(); !slices.Equal(got, []string{"b"}) {
			t.Errorf("a new conversation went to %q", got)
		}
	})
}

// endless is letters without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// TestATiedRequestWhoseMemberIsOut: another one is asked, which may know what the request names, as a key of the same organization does. If it does
// not, the agent hears who is out: what a stranger says of that is no answer.
func TestATiedRequestWhoseMemberIsOut(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		k, route := newKeeper(t)
		up := &accounts{made: map[string]string{}, out: map[string]bool{}}
		b := newBench(t, setup{protos: protos, route: &route, change: func(o *Options) { o.Pools, o.Ties = k, k }, handler: up})
		c := b.client(h2)
		_, id := post(t, c, "json", "", strings.NewReader(""))
		up.mu.Lock()
		up.out["a"] = true
		up.mu.Unlock()
		up.took()
		waits := func(resp *http.Response, body, field string) {
			t.Helper()
			if resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" || resp.Header.Get("Sluice-Pool") != "p" {
				t.Errorf("%d %v", resp.StatusCode, resp.Header)
			}
			if !strings.Contains(body, `\"a\"`) || !strings.Contains(body, field) {
				t.Errorf("it is not said who is out and why: %s", body)
			}
		}
		for i, want := range [][]string{{"a", "b"}, {"b"}} { // refused, and known to be out
			resp, body := post(t, c, "json", id, strings.NewReader(""))
			waits(resp, body, "previous_response_id")
			if got := up.took(); !slices.Equal(got, want) {
				t.Errorf("%d: %q were asked, want %q", i, got, want)
			}
		}
		// What is only looked up or taken away is nobody else's.
		r := newRequest("GET", nil)
		r.URL.Path = "/v1/responses/" + id
		resp, body := ask(t, c, r)
		waits(resp, body, "path")
		if got := up.took(); len(got) != 0 {
			t.Errorf("a response was looked for at %q", got)
		}
		up.mu.Lock()
		delete(up.made, id) // known to all now
		up.mu.Unlock()
		resp, own := post(t, c, "json", id, strings.NewReader(""))
		if got := up.took(); resp.StatusCode != 200 || !slices.Equal(got, []string{"b"}) {
			t.Errorf("%d %s: %q were asked", resp.StatusCode, own, got)
		}
		// Where it went on it stays.
		for range 2 {
			if resp, body = post(t, c, "json", own, strings.NewReader("")); resp.StatusCode != 200 {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
			if got := up.took(); !slices.Equal(got, []string{"b"}) {
				t.Errorf("%q were asked", got)
			}
		}
		if s, err := k.PoolStatus(t.Context(), "p"); err != nil || s.State != pool.StateDegraded {
			t.Errorf("the pool is %v, %v", s.State, err)
		}
		// With nobody left nobody is asked, and none is out for what it did not know.
		up.mu.Lock()
		up.out["b"] = true
		up.mu.Unlock()
		for i, want := range [][]string{{"b"}, nil} {
			resp, body := post(t, c, "json", own, strings.NewReader(""))
			if got := up.took(); resp.StatusCode != 429 || !strings.Contains(body, `\"b\"`) || !slices.Equal(got, want) {
				t.Errorf("%d: %d %s: %q were asked", i, resp.StatusCode, body, got)
			}
		}
	})
}
