package monitor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// TestNoticedWaitsForEveryChannel waits for the notice of an event, of which one
// channel hears a minute late.
func TestNoticedWaitsForEveryChannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := open(t, t.TempDir())
		defer w.close(t)
		up, late := &inbox{name: "up"}, &inbox{name: "late", down: true}
		m, err := New(t.Context(), Options{Pools: w, Events: w, Cursors: w.db, Channels: []Channel{up, late}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.run(ctx, bubbleAlarm{}, steadyClock) }()
		if err := w.Record(t.Context(), pool.Event{Kind: pool.EventRecovered, Pool: "p"}); err != nil {
			t.Fatal(err)
		}
		short, stop := context.WithTimeout(t.Context(), 5*time.Second)
		if err := m.Noticed(short, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one channel is down: %v", err)
		}
		stop()
		time.AfterFunc(time.Minute, func() { late.mu.Lock(); late.down = false; late.mu.Unlock() })
		if err := m.Noticed(t.Context(), 1); err != nil {
			t.Error(err)
		}
		late.mu.Lock()
		if len(late.seqs) != 1 {
			t.Errorf("said to be noticed, but %d notices were sent", len(late.seqs))
		}
		late.mu.Unlock()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
