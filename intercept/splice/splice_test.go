package splice

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

func TestMain(m *testing.M) {
	kerneltest.Main(children)
	goleak.VerifyTestMain(m)
}

const patience = 20 * time.Second

// pair is the two ends of one TCP connection over loopback.
func pair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err = net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	far, err = l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*net.TCPConn{near, far} {
		t.Cleanup(func() { _ = c.Close() })
	}
	_ = near.SetDeadline(time.Now().Add(patience)) // the test's end; the far one is the relay's
	return near, far
}

type result struct {
	up, down int64
	err      error
}

// relay starts one between a client and a server, and closes its ends after it, as
// its caller does.
func relay(t *testing.T, ctx context.Context) (client, server *net.TCPConn, ended <-chan result) {
	t.Helper()
	pipes := NewPipes(2)
	t.Cleanup(pipes.Close)
	return relayBy(t, ctx, pipes)
}

func relayBy(t *testing.T, ctx context.Context, pipes *Pipes) (client, server *net.TCPConn, ended <-chan result) {
	t.Helper()
	client, a := pair(t)
	server, b := pair(t)
	done := make(chan result, 1)
	go func() {
		up, down, err := pipes.Relay(ctx, a, b)
		_ = a.Close()
		_ = b.Close()
		done <- result{up, down, err}
	}()
	return client, server, done
}

func wait(t *testing.T, ended <-chan result) result {
	t.Helper()
	select {
	case r := <-ended:
		return r
	case <-time.After(patience):
		t.Fatal("the relay goes on")
		return result{}
	}
}

// noise writes size random bytes and the end, and answers what they hash to.
func noise(c *net.TCPConn, size int64, seed byte) (hash.Hash, error) {
	sum := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(c, sum), rand.NewChaCha8([32]byte{seed}), size); err != nil {
		return nil, err
	}
	return sum, c.CloseWrite()
}

// swap has both sides send at once and checks that each got what the other sent.
func swap(t *testing.T, client, server *net.TCPConn, up, down int64) {
	t.Helper()
	type sent struct {
		sum hash.Hash
		err error
	}
	fromClient, fromServer, atServer := make(chan sent, 1), make(chan sent, 1), make(chan sent, 1)
	go func() { s, err := noise(client, up, 1); fromClient <- sent{s, err} }()
	go func() { s, err := noise(server, down, 2); fromServer <- sent{s, err} }()
	go func() {
		s := sha256.New()
		_, err := io.Copy(s, server)
		atServer <- sent{s, err}
	}()
	atClient := sha256.New()
	_, err := io.Copy(atClient, client)
	c, s, got := <-fromClient, <-fromServer, <-atServer
	if err := errors.Join(err, c.err, s.err, got.err); err != nil {
		t.Fatal(err)
	}
	if string(c.sum.Sum(nil)) != string(got.sum.Sum(nil)) || string(s.sum.Sum(nil)) != string(atClient.Sum(nil)) {
		t.Fatal("other bytes came out")
	}
}

func TestRelayPassesBytesExactly(t *testing.T) {
	t.Parallel()
	const up, down = 64<<20 + 1, 64<<20 - 1
	client, server, ended := relay(t, t.Context())
	swap(t, client, server, up, down)
	if r := wait(t, ended); r != (result{up: up, down: down}) {
		t.Fatalf("got %+v", r)
	}
}

func TestRelayKeepsHalfClose(t *testing.T) {
	t.Parallel()
	for name, swapped := range map[string]bool{"client first": false, "server first": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, second, ended := relay(t, t.Context())
			if swapped {
				first, second = second, first
			}
			if _, err := first.Write([]byte("question")); err != nil {
				t.Fatal(err)
			}
			if err := first.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(second); string(got) != "question" || err != nil {
				t.Fatalf("got %q, %v", got, err)
			}
			for _, part := range []string{"an", "swer"} { // after the other side has ended
				if _, err := second.Write([]byte(part)); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, len(part))
				if _, err := io.ReadFull(first, got); string(got) != part || err != nil {
					t.Fatalf("got %q, %v", got, err)
				}
			}
			_ = second.CloseWrite()
			if n, err := first.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Fatalf("got %d bytes, %v", n, err)
			}
			if r := wait(t, ended); r.err != nil || r.up+r.down != int64(len("question")+len("answer")) {
				t.Fatalf("got %+v", r)
			}
		})
	}
}

func TestRelayPassesResetOn(t *testing.T) {
	t.Parallel()
	for name, swapped := range map[string]bool{"from the client": false, "from the server": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, second, ended := relay(t, t.Context())
			if swapped {
				first, second = second, first
			}
			if _, err := first.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(second, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			_ = first.SetLinger(0)
			_ = first.Close() // RST
			if _, err := second.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
				t.Fatalf("got %v, want a reset", err)
			}
			if r := wait(t, ended); r.err != nil || r.up+r.down != 1 {
				t.Fatalf("a reset is how connections end, and no fault: got %+v", r)
			}
		})
	}
}

func TestRelayEndsWithContext(t *testing.T) {
	t.Parallel()
	for name, full := range map[string]bool{"idle": false, "nobody reads": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			client, server, ended := relay(t, ctx)
			if full { // until every buffer is full
				_ = client.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
				if _, err := io.Copy(client, rand.NewChaCha8([32]byte{})); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal(err)
				}
			}
			cancel()
			if r := wait(t, ended); !errors.Is(r.err, context.Canceled) {
				t.Fatalf("got %+v", r)
			}
			// What was cut off must not look like an end.
			if _, err := io.Copy(io.Discard, server); !errors.Is(err, unix.ECONNRESET) {
				t.Fatalf("got %v, want a reset", err)
			}
		})
	}
}

func TestRelayOfContextThatIsDone(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, ended := relay(t, ctx)
	if r := wait(t, ended); !errors.Is(r.err, context.Canceled) {
		t.Fatalf("got %+v", r)
	}
}
