package bpf_test

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// TestOlderConnections are dropped, but for those that are kept.
func TestOlderConnections(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	must(t, w.Detach(w.cgroup))
	said := make(chan string, 8)
	var group sync.WaitGroup
	t.Cleanup(group.Wait) // runs after the listener is closed
	l, _ := listenIn(t, w.Server, "10.77.0.1:943")
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer func() { _ = c.Close() }()
				_ = c.SetDeadline(time.Now().Add(5 * time.Second))
				for buf := make([]byte, 64); ; {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					said <- string(buf[:n])
				}
			})
		}
	})
	for _, name := range []string{"kept", "dropped"} {
		w.agent.do(order{Do: "socket", Socket: name, Dst: "10.77.0.1:943"})
		if got := w.agent.do(order{Do: "connect", Socket: name, Dst: "10.77.0.1:943", Data: "mute"}); got.Error != "" {
			t.Fatalf("%+v", got)
		}
	}
	// Its own port is listened on, so that it might be a server's. No client of one comes from a port as low as the other side's.
	const own = "10.77.0.2:7001"
	w.agent.do(order{Do: "socket", Socket: "disguised", Dst: own, Source: own, ReuseAddr: true})
	if got := w.agent.do(order{Do: "connect", Socket: "disguised", Dst: "10.77.0.1:943", Data: "mute"}); got.Error != "" {
		t.Fatalf("%+v", got)
	}
	if got := w.agent.do(order{Do: "listen", Socket: "disguise", Dst: own, ReuseAddr: true}); got.Error != "" {
		t.Fatalf("%+v", got)
	}
	cookie := uint64(w.agent.do(order{Do: "cookie", Socket: "kept"}).N)
	must(t, w.Keep(cookie))
	must(t, w.SetPorts([]uint16{443, 8443, 943}))
	must(t, w.Attach(w.cgroup))
	w.guardAll(t)
	for _, name := range []string{"dropped", "disguised"} {
		before := w.count(t, "dropped_tcp")
		w.agent.do(order{Do: "say", Socket: name, Data: name})
		eventually(t, name+" is dropped", func() bool { return w.count(t, "dropped_tcp") > before })
	}
	w.agent.do(order{Do: "say", Socket: "kept", Data: "live"})
	if got := <-said; got != "live" {
		t.Errorf("heard %q", got)
	}
	if got := w.agent.do(order{Do: "dial", Dst: "10.77.0.1:943"}); got.Said != "10.77.0.1:943" {
		t.Errorf("a new one: %+v", got)
	}
	// Connected anew, the kept socket is redirected as any.
	w.agent.do(order{Do: "disconnect", Socket: "kept"})
	if got := w.agent.do(order{Do: "connect", Socket: "kept", Dst: "10.77.0.1:943"}); got.Said != "10.77.0.1:943" {
		t.Errorf("connected anew: %+v", got)
	}
	if all, err := w.Kept(); err != nil || len(all) != 1 || all[0] != cookie {
		t.Errorf("%v, %v", all, err)
	}
	must(t, w.Unkeep(cookie))
	for _, name := range []string{"kept", "dropped", "disguised", "disguise"} {
		w.agent.do(order{Do: "close", Socket: name})
	}
}

// TestServersAreLetBe has a peer connect whose own port is a bound one.
func TestServersAreLetBe(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	w.guardAll(t)
	must(t, w.SetPorts([]uint16{443, 8443, 9443}))
	for _, host := range []string{"10.77.0.2", "fd77::2"} {
		addr := net.JoinHostPort(host, "7000")
		if got := w.agent.do(order{Do: "listen", Socket: "l", Dst: addr}); got.Error != "" {
			t.Fatalf("%+v", got)
		}
		failed := make(chan error, 1)
		go func() {
			failed <- kerneltest.In(w.Server, func() error {
				d := net.Dialer{LocalAddr: &net.TCPAddr{Port: 9443}, Timeout: 3 * time.Second}
				c, err := d.Dial("tcp", addr)
				if err != nil {
					return err
				}
				defer func() { _ = c.(*net.TCPConn).SetLinger(0); _ = c.Close() }()
				got := make([]byte, 5)
				if _, err := io.ReadFull(c, got); err != nil {
					return err
				}
				if _, err := c.Write(got); err != nil {
					return err
				}
				// Until the agent has read it and is done: the reset would overtake it.
				_, err = io.Copy(io.Discard, c)
				return err
			})
		}()
		got := w.agent.do(order{Do: "accept", Socket: "l"})
		if err := <-failed; err != nil || got.Said != "hello" {
			t.Errorf("%s: %v, %+v", addr, err, got)
		}
		w.agent.do(order{Do: "close", Socket: "l"})
	}
}
