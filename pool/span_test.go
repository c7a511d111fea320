package pool_test

import (
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

func TestSpan(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		-time.Second: "1s", 0: "1s", 300 * time.Millisecond: "1s", 57 * time.Second: "57s", 57*time.Second + 2*time.Millisecond: "57s",
		57*time.Second + 600*time.Millisecond: "58s", time.Minute: "1m", 90 * time.Second: "1m30s", 2 * time.Minute: "2m",
		2*time.Minute + time.Second: "3m", 41 * time.Minute: "41m", time.Hour: "1h", 2*time.Hour + 14*time.Minute: "2h14m",
		15 * time.Minute: "15m", 6 * time.Hour: "6h", 30 * time.Hour: "30h", 20 * time.Minute: "20m", 10*time.Hour + 10*time.Minute: "10h10m",
	} {
		if got := pool.Span(d); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
}
