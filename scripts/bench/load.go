package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// loadRole makes this program the clients. It prints "open" when all streams are,
// "go" when the measurement begins, "end" when it is over, and then the sample as JSON.
const loadRole = "load"

// warmUp is how long there is load before it counts.
const warmUp = 400 * time.Millisecond

// sample is what one measurement of the clients gave.
type sample struct {
	Count   int     `json:"count"`   // requests answered, events read, connections made
	Bytes   int64   `json:"bytes"`   // of bodies, passed on within the measurement
	Seconds float64 `json:"seconds"` // the time that took
	P50     float64 `json:"p50_us"`  // of the latencies, in microseconds
	P99     float64 `json:"p99_us"`
}

// clients is what the load is made with.
type clients struct {
	addr, host, key string
	first, hosts    int // the host's name has a number: of the first one, and how many there are
	connections     int
	up, down        int // bytes of a request's body and of its answer's
	tls             *tls.Config
	length          time.Duration
	interval        time.Duration // of events
	say             io.Writer

	phase atomic.Int32
	moved atomic.Int64 // bytes of bodies, while it counts
	asked atomic.Int64 // hosts
}

// The phases of a measurement.
const (
	phaseWarm = iota
	phaseCounts
	phaseOver
)

func load(args []string) error {
	c := &clients{say: os.Stdout}
	flags := flag.NewFlagSet(loadRole, flag.ContinueOnError)
	flags.StringVar(&c.addr, "addr", "", "address to connect to")
	roots := flags.String("roots", "", "CA that is trusted (PEM)")
	flags.StringVar(&c.key, "key", "", "key to send")
	flags.StringVar(&c.host, "host", "", "host to ask for")
	flags.IntVar(&c.first, "first", 0, "number of the first host")
	flags.IntVar(&c.hosts, "hosts", 0, "how many hosts are asked, once each")
	seconds := flags.Float64("seconds", 1, "length of the measurement")
	do := flags.String("do", "", "h1, h2, new, streams, connect")
	flags.IntVar(&c.connections, "connections", 1, "connections at a time; with connect: in all")
	flags.IntVar(&c.up, "up", 0, "bytes of a request's body; 0 = a short chat")
	flags.IntVar(&c.down, "down", 0, "bytes of an answer's body; 0 = a short completion")
	flags.DurationVar(&c.interval, "interval", 0, "time between two events of a stream")
	if err := flags.Parse(args); err != nil {
		return err
	}
	pem, err := os.ReadFile(*roots)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s: no certificate", *roots)
	}
	c.length = time.Duration(*seconds * float64(time.Second))
	c.tls = &tls.Config{RootCAs: pool, NextProtos: []string{"http/1.1"}, DynamicRecordSizingDisabled: true}
	work, ok := map[string]func() (sample, error){
		"h1":      func() (sample, error) { return c.repeat(c.openH1) },
		"h2":      func() (sample, error) { return c.repeat(c.openH2) },
		"new":     func() (sample, error) { return c.repeat(c.openNew) },
		"streams": c.readStreams,
		"connect": c.connect,
	}[*do]
	if !ok {
		return fmt.Errorf("there is no -do %q", *do)
	}
	s, err := work()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(s)
}

// dial opens a connection to the host that has a number, or to the only one.
func (c *clients) dial(proto, host string) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", c.addr)
	if err != nil {
		return nil, err
	}
	config := c.tls.Clone()
	config.ServerName, config.NextProtos = host, []string{proto}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	if got := conn.ConnectionState().NegotiatedProtocol; got != proto && proto != "http/1.1" {
		_ = raw.Close()
		return nil, fmt.Errorf("the server chose %q, not %s", got, proto)
	}
	return conn, nil
}

// exchanger does one request and its answer after the other.
type exchanger interface {
	exchange() error
	Close() error
}

// repeat keeps the connections busy, each with one exchange after the other, for as long
// as the measurement is to be; where hosts are counted until each was asked once.
func (c *clients) repeat(open func(i int) (exchanger, error)) (sample, error) {
	var group sync.WaitGroup
	n := c.connections
	latencies, errs := make([][]time.Duration, n), make([]error, n)
	if c.hosts > 0 {
		c.phase.Store(phaseCounts)
		fmt.Fprintln(c.say, "go")
	}
	start := time.Now()
	for i := range n {
		e, err := open(i)
		if err != nil {
			c.phase.Store(phaseOver)
			group.Wait()
			return sample{}, fmt.Errorf("connection %d: %w", i, err)
		}
		group.Go(func() {
			defer e.Close()
			latencies[i], errs[i] = c.exchanges(e)
		})
	}
	if c.hosts == 0 {
		time.Sleep(warmUp)
		c.phase.Store(phaseCounts)
		fmt.Fprintln(c.say, "go")
		start = time.Now()
		time.Sleep(c.length)
		c.phase.Store(phaseOver)
	} else {
		group.Wait()
	}
	took, moved := time.Since(start), c.moved.Load()
	fmt.Fprintln(c.say, "end")
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return sample{}, err
	}
	return newSample(slices.Concat(latencies...), took, moved)
}

// exchanges does them on one connection until the phase is over.
func (c *clients) exchanges(e exchanger) ([]time.Duration, error) {
	latencies := make([]time.Duration, 0, 1<<14)
	for {
		counts := c.phase.Load()
		if counts == phaseOver {
			return latencies, nil
		}
		start := time.Now()
		if err := e.exchange(); err == io.EOF {
			return latencies, nil // every host was asked
		} else if err != nil {
			return nil, err
		}
		if counts == phaseCounts && c.phase.Load() == phaseCounts {
			latencies = append(latencies, time.Since(start))
		}
	}
}

// move counts bytes of a body.
func (c *clients) move(n int) {
	if c.phase.Load() == phaseCounts {
		c.moved.Add(int64(n))
	}
}

func newSample(all []time.Duration, took time.Duration, moved int64) (sample, error) {
	if len(all) == 0 && moved == 0 {
		return sample{}, errors.New("nothing was answered")
	}
	if len(all) == 0 { // long bodies, none of which came to its end
		return sample{Bytes: moved, Seconds: took.Seconds()}, nil
	}
	slices.Sort(all)
	at := func(share float64) float64 {
		return float64(all[min(len(all)-1, int(share*float64(len(all))))]) / float64(time.Microsecond)
	}
	return sample{Count: len(all), Bytes: moved, Seconds: took.Seconds(), P50: at(0.50), P99: at(0.99)}, nil
}
