package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// impatient is a client of a daemon that does what handler does, or nothing at all if that is nil.
func impatient(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if handler != nil {
		server := &http.Server{Handler: handler}
		ended := make(chan struct{})
		go func() { defer close(ended); _ = server.Serve(l) }()
		t.Cleanup(func() { _ = server.Close(); <-ended })
	}
	client, err := Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	client.http.Transport.(*attended).silence = 100 * time.Millisecond
	return client
}

// A daemon that was stopped still has its connections made, and takes what is sent: the kernel does both.
func TestDaemonThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	client := impatient(t, nil)
	for name, ask := range map[string]func(context.Context) error{
		"status": func(ctx context.Context) error { _, err := client.Status(ctx); return err },
		"rotate": func(ctx context.Context) error { _, err := client.RotatePool(ctx, "p"); return err },
		"attach": func(ctx context.Context) error { _, err := client.Attach(ctx, TargetSpec{}); return err },
		"follow": func(ctx context.Context) error {
			return client.Follow(ctx, 0, func() { t.Error("it was opened") }, nil)
		},
	} {
		err := ask(t.Context())
		var unreachable *UnreachableError
		if !errors.As(err, &unreachable) || unreachable.NotRunning() || !strings.Contains(err.Error(), "was stopped, or hangs") || !strings.Contains(err.Error(), "restart") {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if change := name == "rotate" || name == "attach"; change != strings.Contains(err.Error(), "may yet do") {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("whoever waits no more is told %v", err)
	}
}

// What takes long is waited for while the daemon lives, and a stream may be silent.
func TestDaemonThatTakesItsTime(t *testing.T) {
	t.Parallel()
	const long = time.Second
	client := impatient(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/healthz":
			fmt.Fprint(w, `{"status": "ok"}`)
			return
		case "/api/events":
			w.Header().Set("Content-Type", "text/event-stream")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(long)
			fmt.Fprint(w, "data: {\"seq\": 7}\n\n")
			return
		}
		fmt.Fprint(w, `[{"name": `)
		_ = http.NewResponseController(w).Flush()
		time.Sleep(long)
		fmt.Fprint(w, `"a"}]`)
	})
	if pools, err := client.Pools(t.Context()); err != nil || len(pools) != 1 {
		t.Errorf("%v, %v", pools, err)
	}
	var seq int64
	_ = client.Follow(t.Context(), 0, func() {}, func(e Event) error { seq = e.Seq; return nil })
	if seq != 7 {
		t.Errorf("the stream was cut: %d", seq)
	}
}

// A daemon that stops in the middle of an answer has not answered.
func TestAnswerThatBreaksOff(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		says   string
	}{
		"before it": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "broke off"},
		"in it": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "[")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, "broke off"},
		"with no end": {func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/healthz" {
				fmt.Fprint(w, "[")
				_ = http.NewResponseController(w).Flush()
			}
			<-r.Context().Done()
		}, "was stopped, or hangs"},
	} {
		_, err := impatient(t, tc.answer).Pools(t.Context())
		var unreachable *UnreachableError
		if !errors.As(err, &unreachable) || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "EOF") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
