package intercept

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

// TestFloodingIsToldOnce: a target whose connects are refused look after look is in the log once, and again after it had stopped,
// or was attached anew.
func TestFloodingIsToldOnce(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	kernel := newLedger()
	in := &Interceptor{opts: Options{Flows: kernel, Log: slog.New(slog.NewTextHandler(&text, nil))}}
	in.owners = map[uint64]*target{7: {Target: Target{ID: "greedy"}}, 8: {Target: Target{ID: "other"}}}
	f := new(flooding)
	look := func(refused map[uint64]uint64, failed error) string {
		kernel.mu.Lock()
		kernel.refused, kernel.fail["shares"] = refused, failed
		kernel.mu.Unlock()
		text.Reset()
		in.tellFlooding(f)
		return text.String()
	}
	kernel.refused = map[uint64]uint64{7: 100, 8: 0}
	in.compare(f) // what a former daemon has seen
	for i, step := range []struct {
		refused uint64
		told    bool
	}{{100, false}, {120, true}, {150, false}, {150, false}, {151, true}, {151, false}, {5, true}} {
		got := look(map[uint64]uint64{7: step.refused, 8: 0}, nil)
		if strings.Contains(got, "target=greedy") != step.told || strings.Contains(got, "other") {
			t.Errorf("step %d: %q", i, got)
		}
	}
	if got := look(nil, errors.New("no map")); !strings.Contains(got, "no map") {
		t.Errorf("%q", got)
	}
}
