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

// TestPortUsedAgainWhileItWaits: a connection that is reset while it waits to be served leaves its port to another one, which must
// be served in its own right.
func TestPortUsedAgainWhileItWaits(t *testing.T) {
	kernel := onKernel(t, newRedirect(t))
	s := newStreet(t, func(b *bench, o *Options) {
		kernel(b, o)
		o.MaxConns = 1
	}, echoBack)
	r := &road{street: s, dir: s.target.Cgroup}
	got := r.python(t, `s.sendall(b'one'); s.recv(3)
reset = socket.socket(); reset.bind(('', 40000)); reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')
reset.connect(('`+originAddr+`', 443)); reset.sendall(b'nobody'); reset.close()
again = socket.socket(); again.settimeout(5); again.bind(('', 40000)); again.connect(('`+originAddr+`', 443)); again.sendall(b'two')
s.close()
print(again.recv(3).decode(), end='')`)
	if got != "two" {
		t.Errorf("got %q; counters %+v", got, s.Counters())
	}
	if n := s.Counters(); n.Spliced != 2 || n.Lost != 1 || n.Unsolicited != 0 {
		t.Errorf("counters %+v", n)
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
