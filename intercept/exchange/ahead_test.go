package exchange

import (
	"io"
	"net/http"
	"testing"
	"time"
)

// TestSlowErrorBody has an upstream that says no and then takes its time: the request
// goes on with the next member when AnswerTimeout is over, and where there is none the
// client gets the body as it comes, byte for byte.
func TestSlowErrorBody(t *testing.T) {
	t.Parallel()
	for _, h2 := range []bool{false, true} {
		t.Run(map[bool]string{true: "h2", false: "h1"}[h2], func(t *testing.T) {
			t.Parallel()
			protos := []string{"http/1.1"}
			if h2 {
				protos = []string{"h2", "http/1.1"}
			}
			const first, rest = `{"error":{"message":"slow`, ` down"}}`
			release := make(chan struct{})
			pools := newMembers("a", "b")
			b := newBench(t, setup{
				pools: pools, protos: protos, change: func(o *Options) { o.AnswerTimeout = 100 * time.Millisecond },
				handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/refused" && r.Header.Get("Authorization") == "Bearer "+secretOf("a") {
						w.WriteHeader(429)
					} else if r.URL.Path == "/forbidden" {
						w.WriteHeader(403)
					} else {
						return
					}
					_, _ = io.WriteString(w, first)
					_ = http.NewResponseController(w).Flush()
					select {
					case <-release:
						_, _ = io.WriteString(w, rest)
					case <-r.Context().Done():
					}
				}),
			})
			began := time.Now()
			resp, err := b.client(h2).Get("https://" + testHost + "/refused")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if took := time.Since(began); resp.StatusCode != 200 || took > 3*time.Second {
				t.Errorf("refused: status %d after %s", resp.StatusCode, took)
			}
			resp, err = b.client(h2).Get("https://" + testHost + "/forbidden")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			close(release)
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != 403 || string(body) != first+rest {
				t.Errorf("forbidden: status %d, body %q, %v", resp.StatusCode, body, err)
			}
		})
	}
}
