package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
)

// quicFallback is how long a client may need to find out that there is no QUIC.
const quicFallback = 100 * time.Millisecond

// quicClient is a command of the tests: HTTP/3 first, and TCP when that fails.
func quicClient() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://api.openai.com/v1/models", nil)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	request.Header.Set("Authorization", "Bearer "+os.Getenv("OPENAI_API_KEY"))
	quic := &http3.Transport{}
	began := time.Now()
	_, err = quic.RoundTrip(request)
	fmt.Println("quic refused", err != nil, "at once", time.Since(began) < quicFallback)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	_ = answer.Body.Close()
	fmt.Println("tcp", answer.StatusCode)
}

// TestQUICClientFallsBack lets quic-go's client find out that UDP to a bound port is
// refused, at once and not by a time-out.
func TestQUICClientFallsBack(t *testing.T) {
	h := newHouse(t, nil)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	client := filepath.Join(h.dir, "quic-client")
	if err := os.Symlink(self, client); err != nil {
		t.Fatal(err)
	}
	if got, want := h.output(client), "quic refused true at once true\ntcp 200\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	h.seen(0, 1)
}
