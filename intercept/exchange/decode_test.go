package exchange

import (
	"bytes"
	"compress/gzip"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/pool"
)

// TestDecodeAnswer judges a refusal by what it says, also where it claims a coding that it is not in.
func TestDecodeAnswer(t *testing.T) {
	t.Parallel()
	const body = `{"error":{"code":"insufficient_quota"}}`
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = w.Write([]byte(body))
	_ = w.Close()
	long := strings.Repeat("x", 2*pool.MaxAnswerBody)
	for _, c := range []struct{ encoding, raw, want string }{
		{"", body, body},
		{"identity", body, body},
		{"gzip", packed.String(), body},
		{"gzip", packed.String()[:packed.Len()-4], body},
		{"gzip", body, body},
		{"br", body, body},
		{"zstd", body, body},
		{"utf-8", body, body},
		{"gzip, gzip", body, body},
		{"none", long, long[:pool.MaxAnswerBody]},
		{"gzip", "", ""},
	} {
		if got := string(decodeAnswer([]byte(c.raw), c.encoding)); got != c.want {
			t.Errorf("%q, %.20q: %.60q", c.encoding, c.raw, got)
		}
	}
}
