package intercept

import (
	"io"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/intercept/cgroup"
)

func TestConnectionsAreBounded(t *testing.T) {
	s := newStreet(t, func(_ *bench, o *Options) { o.MaxConns = 1 }, echoBack)
	first := s.connect(s.origin443())
	_, err := first.Write([]byte("one"))
	must(t, err)
	_, err = io.ReadFull(first, make([]byte, 3))
	must(t, err)
	second := s.connect(s.origin443())
	_, err = second.Write([]byte("two"))
	must(t, err)
	eventually(t, "the second has to wait", func() bool { return s.Counters().Full == 1 })
	first.Close()
	got := make([]byte, 3)
	_, err = io.ReadFull(second, got)
	must(t, err)
	if string(got) != "two" {
		t.Errorf("the second got %q", got)
	}
}

// TestOneTargetLeavesConnectionsForOthers: one that opens as many as it can keeps no other one out.
func TestOneTargetLeavesConnectionsForOthers(t *testing.T) {
	const served = 64
	s := newStreet(t, func(_ *bench, o *Options) { o.MaxConns = served }, echoBack)
	talks := func() bool {
		t.Helper()
		c, err := s.dial(s.origin443())
		if err != nil {
			return false
		}
		t.Cleanup(func() { c.Close() })
		must(t, c.SetDeadline(time.Now().Add(10*time.Second)))
		if _, err := c.Write([]byte("one")); err != nil {
			return false
		}
		_, err = io.ReadFull(c, make([]byte, 3))
		if isTimeout(err) {
			t.Fatal("it waits instead of being refused")
		}
		return err == nil
	}
	open := 0
	for ; open <= served && talks(); open++ {
	}
	if open < served*3/4 || open >= served {
		t.Fatalf("a target alone has %d connections of %d", open, served)
	}
	if talks() || s.Counters().Crowded != 2 {
		t.Errorf("then one more; %+v", s.Counters())
	}
	dir := newCgroup(t)
	startIn(t, dir, s.ns)
	_, err := s.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	s.cgroup, err = cgroup.ID(dir)
	must(t, err)
	for i := range 2 {
		if !talks() {
			t.Errorf("another target's connection %d was refused", i+1)
		}
	}
	if full := s.Counters().Full; full != 0 {
		t.Errorf("%d had to wait", full)
	}
}
