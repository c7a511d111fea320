package exchange

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/pool"
)

// What a lease adds to a list is there once, beside all that the agent has in it.
func TestAnElementIsAddedToAList(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		got := make(chan string, 1)
		pools := &still{pool.Lease{Pool: "p", Member: "a", Also: []pool.Field{{Name: "anthropic-beta", Value: []byte("oauth-x")}}}}
		b := newBench(t, setup{
			change: func(o *Options) { o.Pools = pools }, protos: protos,
			handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				got <- strings.Join(r.Header["Anthropic-Beta"], "|")
			}),
		})
		client := b.client(h2)
		for _, c := range []struct {
			sent []string
			want string
		}{
			{nil, "oauth-x"},
			{[]string{"tools-y,oauth-xy"}, "tools-y,oauth-xy|oauth-x"},
			{[]string{"tools-y, oauth-x"}, "tools-y, oauth-x"},
			{[]string{"oauth-x", "tools-y"}, "oauth-x|tools-y"},
		} {
			req := newRequest("POST", strings.NewReader("{}"))
			req.Header["Anthropic-Beta"] = slices.Clone(c.sent)
			if resp, body := ask(t, client, req); resp.StatusCode != 200 {
				t.Fatalf("%q: %d %s", c.sent, resp.StatusCode, body)
			}
			if at := <-got; at != c.want {
				t.Errorf("%q: upstream has %q, want %q", c.sent, at, c.want)
			}
		}
	})
}
