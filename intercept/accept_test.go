package intercept

import (
	"bytes"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestStarvingIsSaidAtItsEdges: hundreds of failed accepts, of all listeners, are one line, and their end another.
func TestStarvingIsSaidAtItsEdges(t *testing.T) {
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, nil))
	said := func(step string, begun, over int) {
		t.Helper()
		if b, o := strings.Count(text.String(), "not accepted"), strings.Count(text.String(), "accepted again"); b != begun || o != over {
			t.Errorf("%s: said %d and %d times, want %d and %d:\n%s", step, b, o, begun, over, &text)
		}
	}
	var s starving
	now := time.Unix(1e9, 0)
	s.over(log, now)
	said("nothing failed", 0, 0)
	for range 500 {
		s.failed(log, now, syscall.EMFILE)
		now = now.Add(10 * time.Millisecond)
	}
	said("no descriptor for five seconds", 1, 0)
	s.over(log, now)
	s.over(log, now)
	said("over", 1, 1)
	if !strings.Contains(text.String(), "after=5s failures=500") {
		t.Errorf("how long and how often is not said:\n%s", &text)
	}
	for range 900 { // at the limit: one fails, the next does not
		now = now.Add(10 * time.Millisecond)
		s.failed(log, now, syscall.ENFILE)
		s.over(log, now)
	}
	said("in turns, for nine seconds", 1, 1)
	now = now.Add(2 * time.Second)
	s.failed(log, now, syscall.ENFILE)
	said("a while later", 2, 1)
	s.over(log, now)
	said("over again", 2, 2)
}
