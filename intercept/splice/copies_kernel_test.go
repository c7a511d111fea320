package splice

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

var children = map[string]kerneltest.Child{"relay": relayChild}

// job has a process of its own connect to both addresses and pass bytes between them.
type job struct {
	Client, Server string
	Copied         bool // pass them through its memory, to see that this is seen
}

// counted is what the kernel counted meanwhile (proc(5), /proc/PID/io): the bytes
// that system calls carried in and out of the process. splice(2) carries none.
type counted struct{ Read, Written int64 }

func count() (c counted, err error) {
	data, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return c, err
	}
	_, err = fmt.Sscanf(string(data), "rchar: %d\nwchar: %d\n", &c.Read, &c.Written)
	return c, err
}

func relayChild(in json.RawMessage) (any, error) {
	var j job
	if err := json.Unmarshal(in, &j); err != nil {
		return nil, err
	}
	var ends [2]*net.TCPConn
	for i, addr := range []string{j.Client, j.Server} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		ends[i] = c.(*net.TCPConn)
	}
	before, err := count()
	if err != nil {
		return nil, err
	}
	if j.Copied {
		err = copied(ends[0], ends[1])
	} else {
		_, _, err = NewPipes(2).Relay(context.Background(), ends[0], ends[1])
	}
	if err != nil {
		return nil, err
	}
	after, err := count()
	return counted{after.Read - before.Read, after.Written - before.Written}, err
}

// copied relays as a proxy does that does not use splice.
func copied(a, b *net.TCPConn) error {
	done := make(chan error, 2)
	for _, way := range [][2]*net.TCPConn{{a, b}, {b, a}} {
		go func() {
			_, err := io.Copy(struct{ io.Writer }{way[0]}, struct{ io.Reader }{way[1]})
			_ = way[0].CloseWrite()
			done <- err
		}()
	}
	if err := <-done; err != nil {
		return err
	}
	return <-done
}

// TestRelayCopiesNothing has the kernel count the bytes that enter and leave the
// relay's process.
func TestRelayCopiesNothing(t *testing.T) {
	kerneltest.Require(t)
	const up, down = 16 << 20, 48 << 20
	for name, byCopying := range map[string]bool{"relay": false, "a copy": true} {
		t.Run(name, func(t *testing.T) {
			j := job{Copied: byCopying}
			var ends [2]*net.TCPListener
			for i, addr := range []*string{&j.Client, &j.Server} {
				l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				_ = l.SetDeadline(time.Now().Add(patience))
				ends[i], *addr = l, l.Addr().String()
			}
			var got counted
			ended := make(chan error, 1)
			go func() { ended <- kerneltest.Call(t, "", "", "relay", j, &got) }()
			var conns [2]*net.TCPConn
			for i, l := range ends {
				c, err := l.AcceptTCP()
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				conns[i] = c
			}
			swap(t, conns[0], conns[1], up, down)
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			through := max(got.Read, got.Written)
			if byCopying && through < up+down {
				t.Fatalf("%d bytes were copied and only %d counted: this test proves nothing here", up+down, through)
			}
			if !byCopying && through > 64<<10 {
				t.Fatalf("%+v: bytes of %d went through the process", got, up+down)
			}
			t.Logf("%d bytes relayed, %+v of them through the process", up+down, got)
		})
	}
}
