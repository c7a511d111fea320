package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http/httputil"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// readStreams opens the streams, says so, and measures how late each event is read after
// it was sent. Where nothing happens between the first event and
// the end, the first events are what was measured.
func (c *clients) readStreams() (sample, error) {
	n := c.connections
	var group, flowing sync.WaitGroup
	lateness, errs := make([][]time.Duration, n), make([]error, n)
	var mu sync.Mutex
	var conns []net.Conn
	defer func() {
		c.phase.Store(phaseOver)
		for _, conn := range conns {
			_ = conn.Close()
		}
		group.Wait()
	}()
	failed := make(chan error, n)
	flowing.Add(n)
	opening := make(chan int)
	var openers sync.WaitGroup
	for range 16 {
		openers.Go(func() {
			for i := range opening {
				conn, err := c.dial("http/1.1", c.host)
				if err != nil {
					failed <- fmt.Errorf("stream %d: %w", i, err)
					continue
				}
				mu.Lock()
				conns = append(conns, conn)
				mu.Unlock()
				group.Go(func() {
					lateness[i], errs[i] = c.events(conn, sync.OnceFunc(flowing.Done))
					if errs[i] != nil {
						failed <- errs[i]
					}
				})
			}
		})
	}
	for i := range n {
		opening <- i
	}
	close(opening)
	openers.Wait()
	all := make(chan struct{})
	go func() { flowing.Wait(); close(all) }()
	select {
	case <-all:
	case err := <-failed:
		return sample{}, err
	case <-time.After(time.Minute):
		return sample{}, errors.New("not every stream's first event came within a minute")
	}
	fmt.Fprintln(c.say, "open")
	time.Sleep(max(warmUp, min(10*c.interval, time.Second)))
	c.phase.Store(phaseCounts)
	fmt.Fprintln(c.say, "go")
	start := time.Now()
	time.Sleep(c.length)
	c.phase.Store(phaseOver)
	took := time.Since(start)
	fmt.Fprintln(c.say, "end")
	if c.interval > time.Minute {
		return sample{Count: n, Seconds: took.Seconds()}, nil
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return sample{}, err
	}
	return newSample(slices.Concat(lateness...), took, 0)
}

// events reads one stream until the phase is over.
func (c *clients) events(conn net.Conn, first func()) ([]time.Duration, error) {
	_, err := fmt.Fprintf(conn, "GET %s%s HTTP/1.1\r\nHost: %s\r\nAccept: text/event-stream\r\nAuthorization: Bearer %s\r\n\r\n",
		streamPath, c.interval, c.host, c.key)
	if err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	in := bufio.NewReaderSize(conn, 4<<10)
	if err := readChunkedHead(in); err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	var lateness []time.Duration
	lines := bufio.NewReaderSize(httputil.NewChunkedReader(in), 1<<10)
	for {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			return nil, fmt.Errorf("event: %w", err)
		}
		data, found := bytes.CutPrefix(line, []byte("data: "))
		if !found {
			continue
		}
		stamp, _, _ := bytes.Cut(data, []byte(" "))
		sent, err := strconv.ParseInt(string(stamp), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("event: %w", err)
		}
		first()
		switch c.phase.Load() {
		case phaseCounts:
			lateness = append(lateness, time.Duration(simulator.Monotonic()-sent))
		case phaseOver:
			return lateness, nil
		}
	}
}

// readChunkedHead insists on status 200 and the chunked coding.
func readChunkedHead(in *bufio.Reader) error {
	status, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	if !strings.HasPrefix(status, "HTTP/1.1 200 ") {
		return fmt.Errorf("status line %q", status)
	}
	for chunked := false; ; {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		line = strings.ToLower(strings.TrimSpace(line))
		chunked = chunked || line == "transfer-encoding: chunked"
		if line == "" && chunked {
			return nil
		}
		if line == "" {
			return errors.New("the stream is not chunked")
		}
	}
}

// connect measures connect(2) alone: the handshake with whoever listens is within it,
// what is done with the connection is not.
func (c *clients) connect() (sample, error) {
	addr, err := net.ResolveTCPAddr("tcp4", c.addr)
	if err != nil {
		return sample{}, err
	}
	to := &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())}
	var all []time.Duration
	begin := time.Now()
	for i := range c.connections {
		if i == c.connections/10 { // the first ones warm up
			fmt.Fprintln(c.say, "go")
			begin = time.Now()
			all = all[:0]
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return sample{}, err
		}
		start := time.Now()
		err = unix.Connect(fd, to)
		all = append(all, time.Since(start))
		if closeErr := unix.Close(fd); err != nil || closeErr != nil {
			return sample{}, errors.Join(err, closeErr)
		}
		time.Sleep(200 * time.Microsecond) // whoever accepted it is through with it
	}
	fmt.Fprintln(c.say, "end")
	return newSample(all, time.Since(begin), 0)
}
