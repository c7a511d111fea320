package exchange

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// wires are the two ends of a connection on loopback.
func wires(t *testing.T) (a, b *wire) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialed, err := net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialed.Close(); accepted.Close() })
	if a, err = newWire(dialed); err != nil {
		t.Fatal(err)
	}
	if b, err = newWire(accepted); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// A write of more than the socket takes at once waits for the reader, and nothing is lost
// or doubled when both directions are full at the same time.
func TestWireCarriesBothWays(t *testing.T) {
	t.Parallel()
	a, b := wires(t)
	sent := make([]byte, 8<<20)
	if _, err := rand.Read(sent); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for _, pair := range [][2]*wire{{a, b}, {b, a}} {
		group.Go(func() {
			n, err := pair[0].Write(sent)
			if n != len(sent) || err != nil {
				t.Errorf("wrote %d of %d: %v", n, len(sent), err)
			}
			if err := pair[0].CloseWrite(); err != nil {
				t.Error(err)
			}
		})
		group.Go(func() {
			got, err := io.ReadAll(pair[1])
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("read %d of %d, the same: %v; %v", len(got), len(sent), bytes.Equal(got, sent), err)
			}
		})
	}
	group.Wait()
}

func TestWireErrors(t *testing.T) {
	t.Parallel()
	a, b := wires(t)
	var one [1]byte
	if n, err := a.Read(nil); n != 0 || err != nil {
		t.Errorf("a read of nothing: %d, %v", n, err)
	}
	if n, err := a.Write(nil); n != 0 || err != nil {
		t.Errorf("a write of nothing: %d, %v", n, err)
	}
	if err := a.SetDeadline(past); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Read(one[:]); !isTimeout(err) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read after the deadline: %v", err)
	}
	if err := a.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	woken := make(chan error)
	go func() {
		_, err := a.Write(make([]byte, 64<<20))
		woken <- err
	}()
	if err := a.SetWriteDeadline(past); err != nil {
		t.Fatal(err)
	}
	if err := <-woken; !isTimeout(err) {
		t.Errorf("a write that waits, woken by a deadline: %v", err)
	}
	if err := b.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	b.Close()
	eventually(t, "the reset to come", func() bool {
		_, err := a.Read(one[:])
		return errors.Is(err, syscall.ECONNRESET)
	})
	if err := a.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Write(one[:]); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write after the reset: %v", err)
	}
	if _, err := b.Read(one[:]); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read of a closed connection: %v", err)
	}
}

// As many connections as clients keep busy are kept, also if they are many: below that,
// each request would cost a handshake.
func TestBusyConnectionsAreKept(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ clients, limit, dials int }{
		"all of many": {100, 0, 100}, "as many as may be": {5, 3, 5 + 2 + 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newBench(t, setup{raw: inStep(test.clients), change: func(o *Options) { o.MaxIdle = test.limit }})
			var ask []func()
			for range test.clients {
				ask = append(ask, smallRequests(t, h.dial("http/1.1")))
			}
			for range 3 {
				var group sync.WaitGroup
				for _, one := range ask {
					group.Go(one)
				}
				group.Wait()
			}
			if dials := h.x.Snapshot().Dials; dials != uint64(test.dials) {
				t.Errorf("%d upstream connections were opened, not %d", dials, test.dials)
			}
		})
	}
}

// inStep is an origin that answers when n requests have come, all at once.
func inStep(n int) func(int, net.Conn) {
	var mu sync.Mutex
	all := sync.NewCond(&mu)
	came := 0
	return func(_ int, c net.Conn) {
		in := bufio.NewReader(c)
		for {
			if _, err := readRequest(in); err != nil {
				return
			}
			mu.Lock()
			came++
			for round := (came - 1) / n; came < (round+1)*n; {
				all.Wait()
			}
			all.Broadcast()
			mu.Unlock()
			if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"); err != nil {
				return
			}
		}
	}
}
