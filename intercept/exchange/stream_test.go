package exchange

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// segments is a connection whose writes can be kept, to go out in other pieces than they were made.
type segments struct {
	net.Conn
	keep bool
	kept []byte
}

func (s *segments) Write(p []byte) (int, error) {
	if !s.keep {
		return s.Conn.Write(p)
	}
	s.kept = append(s.kept, p...)
	return len(p), nil
}

// send sends the first n bytes of what was kept.
func (s *segments) send(n int) error {
	_, err := s.Conn.Write(s.kept[:n])
	s.kept = s.kept[n:]
	return err
}

// segmented gives the origin of a bench its connections as both.
func segmented(t *testing.T, handle func(*tls.Conn, *segments) error) setup {
	return setup{
		wrap: func(c net.Conn) net.Conn { return &segments{Conn: c} },
		raw: func(_ int, c net.Conn) {
			if err := handle(c.(*tls.Conn), c.(*tls.Conn).NetConn().(*segments)); err != nil {
				t.Error(err)
			}
		},
	}
}

const streamHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

func chunkOf(event string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(event), event) }

// A stream that has fallen behind catches up: its events came in records of their own, but go out together. One that is
// not whole yet is not waited for.
func TestEventsThatHaveComeGoOutTogether(t *testing.T) {
	t.Parallel()
	const events = 9
	var want bytes.Buffer
	for i := range events {
		want.WriteString(chunkOf(fmt.Sprintf("data: %d\n\n", i)))
	}
	next := make(chan struct{})
	b := newBench(t, segmented(t, func(c *tls.Conn, s *segments) error {
		if _, err := readRequest(bufio.NewReader(c)); err != nil {
			return nil // the client is gone
		}
		first := chunkOf("data: first\n\n")
		if _, err := io.WriteString(c, streamHead+first); err != nil {
			return err
		}
		<-next
		s.keep = true
		for i := range events {
			if _, err := io.WriteString(c, chunkOf(fmt.Sprintf("data: %d\n\n", i))); err != nil {
				return err
			}
		}
		whole := len(s.kept)
		if _, err := io.WriteString(c, chunkOf("data: late\n\n")); err != nil {
			return err
		}
		if err := s.send(whole + 7); err != nil {
			return err
		}
		<-next
		if err := s.send(len(s.kept)); err != nil {
			return err
		}
		<-next
		return nil
	}))
	c := b.dial("http/1.1")
	io.WriteString(c, "GET /v1/stream HTTP/1.1\r\nHost: "+testHost+"\r\n\r\n")
	piece := make([]byte, 16<<10) // crypto/tls gives one record a call
	read := func() string {
		t.Helper()
		n, err := c.Read(piece)
		if err != nil {
			t.Fatal(err)
		}
		return string(piece[:n])
	}
	for got := ""; got != streamHead+chunkOf("data: first\n\n"); got += read() {
		if len(got) > len(streamHead)+64 {
			t.Fatalf("the stream begins with %q", got)
		}
	}
	next <- struct{}{}
	if got := read(); got != want.String() {
		t.Errorf("%d events that had come were passed on as %q first", events, got)
	}
	next <- struct{}{}
	if got, want := read(), chunkOf("data: late\n\n"); got != want {
		t.Errorf("then came %q, want %q", got, want)
	}
	next <- struct{}{}
}

// More than there is room for goes out in pieces, in order and whole, however the records were cut.
func TestAStreamInAnyPieces(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		sizes := rapid.SliceOfN(rapid.OneOf(rapid.IntRange(1, 300), rapid.IntRange(300, 20000)), 1, 40).Draw(r, "records")
		cuts := rapid.SliceOfN(rapid.IntRange(1, 30000), 1, 20).Draw(r, "segments")
		var want []byte
		for i, n := range sizes {
			event := append(bytes.Repeat([]byte{'a' + byte(i%26)}, n), '\n', '\n')
			want = append(want, chunkOf(string(event))...)
		}
		want = append(want, "0\r\n\r\n"...)
		b := newBench(t, segmented(t, func(c *tls.Conn, s *segments) error {
			if _, err := readRequest(bufio.NewReader(c)); err != nil {
				return nil
			}
			if _, err := io.WriteString(c, streamHead); err != nil {
				return err
			}
			s.keep = true
			left := want
			for i := range sizes {
				n := min(len(chunkOf(string(make([]byte, sizes[i]+2)))), len(left))
				if _, err := c.Write(left[:n]); err != nil {
					return err
				}
				left = left[n:]
			}
			if _, err := c.Write(left); err != nil {
				return err
			}
			for i := 0; len(s.kept) > 0; i++ {
				if err := s.send(min(cuts[i%len(cuts)], len(s.kept))); err != nil {
					return err
				}
			}
			return nil
		}))
		c := b.dial("http/1.1")
		io.WriteString(c, "GET /v1/stream HTTP/1.1\r\nHost: "+testHost+"\r\n\r\n")
		got := make([]byte, len(streamHead)+len(want))
		if n, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got[len(streamHead):], want) {
			r.Fatalf("read %d of %d, the same: %v; %v", n, len(got), bytes.Equal(got[min(len(streamHead), n):n], want), err)
		}
		c.Close()
	})
}

func TestRecordsAreCountedInAnyPieces(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		sizes := rapid.SliceOfN(rapid.OneOf(rapid.IntRange(0, 3), rapid.IntRange(0, 1<<14+256)), 1, 20).Draw(r, "records")
		var all []byte
		var ends []int
		for _, n := range sizes {
			all = append(all, 23, 3, 3)
			all = binary.BigEndian.AppendUint16(all, uint16(n))
			all = append(all, make([]byte, n)...)
			ends = append(ends, len(all))
		}
		var s records
		for at := 0; at < len(all); {
			n := rapid.IntRange(1, len(all)-at).Draw(r, "piece")
			s.came(all[at : at+n])
			want := 0
			for _, end := range ends {
				if end > at && end <= at+n {
					want++
				}
			}
			if at += n; s.whole != want {
				r.Fatalf("%d records ended by %d of %d, counted %d", want, at, len(all), s.whole)
			}
		}
	})
}

// What is at hand is asked for without a system call, and without harm to a record of which a part has come.
func TestAtHandIsNoEnd(t *testing.T) {
	t.Parallel()
	a, b := wires(t)
	b.atHand = true
	var p [8]byte
	if n, err := b.Read(p[:]); n != 0 || !isTimeout(err) {
		t.Fatalf("with nothing at hand: %d, %v", n, err)
	}
	b.atHand = false
	if _, err := a.Write([]byte("later")); err != nil {
		t.Fatal(err)
	}
	_ = b.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := b.Read(p[:]); string(p[:n]) != "later" {
		t.Fatalf("read %q, %v", p[:n], err)
	}
}
