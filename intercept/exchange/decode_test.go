package exchange

import (
	"bytes"
	"compress/gzip"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/sluice-proxy/sluice/pool"
)

// TestDecodersMemoryIsBounded: of zstd, whose sender says how much a decoder has to keep.
func TestDecodersMemoryIsBounded(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("x", 1<<20)
	for window, want := range map[int]string{8 << 20: text, 32 << 20: ""} {
		var packed bytes.Buffer
		w, err := zstd.NewWriter(&packed, zstd.WithWindowSize(window), zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		for range 1 << 10 { // in pieces: what is short is sent as one, with no window
			_, _ = w.Write([]byte(text[:1<<10]))
		}
		_ = w.Close()
		if got := string(decode(packed.Bytes(), "zstd", len(text))); got != want {
			t.Errorf("a window of %d MiB: %d bytes, want %d", window>>20, len(got), len(want))
		}
	}
}

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
