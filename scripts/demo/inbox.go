package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// inbox is where the operator reads notices: a webhook, as many chat services offer one.
type inbox struct {
	out    *timeline
	server *http.Server
	url    string
	done   chan error

	mu    sync.Mutex
	texts []string
	kinds []string
}

func openInbox(out *timeline) (*inbox, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for notices: %w", err)
	}
	b := &inbox{out: out, url: "http://" + l.Addr().String() + "/notices", done: make(chan error, 1)}
	b.server = &http.Server{Handler: http.HandlerFunc(b.receive), ReadHeaderTimeout: 5 * time.Second}
	go func() { b.done <- b.server.Serve(l) }()
	return b, nil
}

// config is what makes the daemon tell it.
func (b *inbox) config() string {
	return fmt.Sprintf("[[notify.webhook]]\nname = \"chat\"\nurl = %q\n", b.url)
}

func (b *inbox) receive(w http.ResponseWriter, r *http.Request) {
	var m struct{ Text, Kind string }
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.texts, b.kinds = append(b.texts, m.Text), append(b.kinds, m.Kind)
	b.out.notice(m.Text)
}

// told waits until so many notices have come, and a little longer for one too many.
func (b *inbox) told(ctx context.Context, n int) []string {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		b.mu.Lock()
		enough := len(b.kinds) >= n
		b.mu.Unlock()
		if enough {
			break
		}
		wait(ctx, 50*time.Millisecond)
	}
	wait(ctx, 500*time.Millisecond)
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kinds
}

// wait passes time, unless ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (b *inbox) close() error {
	err := b.server.Close()
	if served := <-b.done; !errors.Is(served, http.ErrServerClosed) {
		return errors.Join(err, served)
	}
	return err
}
