package exchange

import (
	"net/http"
	"testing"
	"time"
)

func TestLatencyBuckets(t *testing.T) {
	t.Parallel()
	var l latency
	for _, d := range []time.Duration{0, 25 * time.Microsecond, 26 * time.Microsecond, time.Second, time.Hour} {
		l.observe(d)
	}
	s := l.snapshot()
	if s.Count != 5 || s.Sum != time.Hour+time.Second+51*time.Microsecond {
		t.Errorf("%+v", s)
	}
	for end, want := range map[time.Duration]uint64{25 * time.Microsecond: 2, 50 * time.Microsecond: 3, 250 * time.Millisecond: 3, time.Second: 4} {
		if s.Below[end] != want {
			t.Errorf("%d up to %s, want %d", s.Below[end], end, want)
		}
	}
}

// TestAddedLatencyIsNotTheUpstreams has an upstream that thinks for a while.
func TestAddedLatencyIsNotTheUpstreams(t *testing.T) {
	t.Parallel()
	const thinks = 300 * time.Millisecond
	for _, h2 := range []bool{false, true} {
		protos := []string{"http/1.1"}
		if h2 {
			protos = []string{"h2", "http/1.1"}
		}
		b := newBench(t, setup{protos: protos, handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(thinks) })})
		resp, err := b.client(h2).Get("https://" + testHost + "/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if added := b.x.Snapshot().Added; added.Count != 1 || added.Sum <= 0 || added.Sum >= thinks {
			t.Errorf("h2=%t: added %s in %d answers", h2, added.Sum, added.Count)
		}
	}
}
