package exchange

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"
)

// askOnce sends a request on a connection of its own and reads the answer, once. Nothing
// is sent again.
func askOnce(c *tls.Conn, in *bufio.Reader) (last bool, err error) {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 2\r\n\r\nhi", testHost); err != nil {
		return false, err
	}
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return false, err
	}
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("status %d", resp.StatusCode)
	}
	return resp.Close, nil
}

func quietFor(d time.Duration) func(*Options) {
	return func(o *Options) { o.QuietTime = d }
}

func answerAtOnce(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "done") }

// Clients that send one request after the other lose none: the last answer says that
// it is, and until then the connection is not closed under them.
func TestDrainLosesNoRequest(t *testing.T) {
	t.Parallel()
	b := newBench(t, setup{handler: http.HandlerFunc(answerAtOnce)})
	const clients = 8
	var asking sync.WaitGroup
	var begun sync.WaitGroup
	begun.Add(clients)
	for range clients {
		c := b.dial("http/1.1")
		defer c.Close()
		asking.Go(func() {
			in := bufio.NewReader(c)
			for n := 0; ; n++ {
				last, err := askOnce(c, in)
				if n == 0 {
					begun.Done()
				}
				if err != nil {
					t.Errorf("request %d: %v", n, err)
				}
				if err != nil || last {
					return
				}
			}
		})
	}
	begun.Wait()
	b.x.Drain()
	asking.Wait()
}

// What is between two requests gets a moment for one more; what is quiet for longer is closed.
func TestDrainWaitsForTheQuiet(t *testing.T) {
	t.Parallel()
	const quiet = 400 * time.Millisecond
	b := newBench(t, setup{handler: http.HandlerFunc(answerAtOnce), change: quietFor(quiet)})
	again, silent := b.dial("http/1.1"), b.dial("http/1.1")
	defer again.Close()
	defer silent.Close()
	in := bufio.NewReader(again)
	for c, r := range map[*tls.Conn]*bufio.Reader{again: in, silent: bufio.NewReader(silent)} {
		if last, err := askOnce(c, r); err != nil || last {
			t.Fatalf("before: last %v, %v", last, err)
		}
	}
	began := time.Now()
	b.x.Drain()
	if last, err := askOnce(again, in); err != nil || !last {
		t.Errorf("one more request: last %v, %v", last, err)
	}
	_ = silent.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := silent.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the silent one ended with %v, want in order", err)
	}
	if took := time.Since(began); took < quiet/2 {
		t.Errorf("closed after %s, want not before the client was quiet for %s", took, quiet)
	}
	if err := b.x.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}

// A connection that was accepted before the end, and says something only then, gets its answer.
func TestDrainServesWhatHasJustCome(t *testing.T) {
	t.Parallel()
	for _, proto := range []string{"h1", "h2"} {
		t.Run(proto, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, setup{
				protos: map[string][]string{"h2": {"h2", "http/1.1"}}[proto], handler: http.HandlerFunc(answerAtOnce), change: quietFor(200 * time.Millisecond),
			})
			client := b.client(proto == "h2")
			get := func(when string) *http.Response {
				t.Helper()
				resp, err := client.Get("https://" + testHost + "/")
				if err != nil {
					t.Fatalf("%s: %v", when, err)
				}
				defer resp.Body.Close()
				if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "done" || (resp.ProtoMajor == 2) != (proto == "h2") {
					t.Fatalf("%s: %s %q %v", when, resp.Proto, body, err)
				}
				return resp
			}
			get("before")
			b.x.Drain()
			get("on the same connection")
			for range 3 {
				get("on a new connection")
				time.Sleep(100 * time.Millisecond) // past the quiet time, too
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := b.x.Shutdown(ctx); err != nil {
				t.Errorf("a connection stays open: %v", err)
			}
			if _, err := client.Get("https://" + testHost + "/"); err == nil {
				t.Error("served after the end")
			}
		})
	}
}
