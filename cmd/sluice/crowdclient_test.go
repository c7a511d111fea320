package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// crowdOrder is what a crowd client is told with each line of its input, and does with many connections at once.
type crowdOrder struct {
	Do      string // one of crowdKinds to open connections, or "ask" on each that is open, or "end" them
	N       int
	Address string // that the connects are for
	Host    string
	Request string // that is sent, in "head" without its end
	Within  time.Duration
}

// What a connection of a crowd does once it is open.
const (
	crowdMute   = "mute"   // nothing
	crowdHello  = "hello"  // sends half of a ClientHello, byte by byte
	crowdClosed = "closed" // sends half of a ClientHello and the end of its sending side
	crowdIdle   = "idle"   // a handshake, and no request
	crowdHead   = "head"   // sends a request's head that never ends, byte by byte
	crowdBody   = "body"   // sends a request's body that never ends, byte by byte
	crowdStream = "stream" // asks, and reads the answer's first event
)

// crowdAnswer is how many connections fared alike, by a word on that.
type crowdAnswer map[string]int

// crowd is the client that TestMain starts under this name.
type crowd struct {
	mu    sync.Mutex
	open  []net.Conn
	fared crowdAnswer
	busy  sync.WaitGroup // what goes on after an order was answered
}

func crowdClient() {
	c := &crowd{fared: crowdAnswer{}}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var order crowdOrder
		if err := json.Unmarshal(lines.Bytes(), &order); err != nil {
			panic(err)
		}
		if err := json.NewEncoder(os.Stdout).Encode(c.obey(order)); err != nil {
			panic(err)
		}
	}
	c.end()
}

// obey does what an order says and tells how the connections have fared since the one before.
func (c *crowd) obey(order crowdOrder) crowdAnswer {
	switch order.Do {
	case "ask":
		c.each(func(conn net.Conn) error { return c.ask(conn, order) })
	case "end":
		c.end()
	case "wait": // for the other side to end them all
		over := make(chan struct{})
		go func() { c.busy.Wait(); close(over) }()
		select {
		case <-over:
		case <-time.After(order.Within):
			c.count("still open")
		}
	default:
		var opening sync.WaitGroup
		atOnce := make(chan struct{}, 64) // handshakes are work for both sides
		for range order.N {
			atOnce <- struct{}{}
			opening.Go(func() {
				defer func() { <-atOnce }()
				if err := c.begin(order); err != nil {
					c.count(err.Error())
				}
			})
		}
		opening.Wait()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	fared := c.fared
	c.fared = crowdAnswer{}
	return fared
}

func (c *crowd) count(how string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fared[how]++
}

func (c *crowd) each(do func(net.Conn) error) {
	c.mu.Lock()
	open := c.open
	c.mu.Unlock()
	var all sync.WaitGroup
	for _, conn := range open {
		all.Go(func() {
			if err := do(conn); err != nil {
				c.count(err.Error())
			}
		})
	}
	all.Wait()
}

func (c *crowd) end() {
	c.each(func(conn net.Conn) error { return conn.Close() })
	c.busy.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open, c.fared = nil, crowdAnswer{}
}

// begin opens one connection.
func (c *crowd) begin(order crowdOrder) error {
	raw, err := net.DialTimeout("tcp", order.Address, time.Minute)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	conn := raw
	if order.Do != crowdMute && order.Do != crowdHello && order.Do != crowdClosed {
		over := tls.Client(raw, &tls.Config{ServerName: order.Host, NextProtos: []string{"http/1.1"}})
		_ = raw.SetDeadline(time.Now().Add(time.Minute))
		if err := over.Handshake(); err != nil {
			return fmt.Errorf("handshake: %w", err)
		}
		_ = raw.SetDeadline(time.Time{})
		conn = over
	}
	c.mu.Lock()
	c.open = append(c.open, conn)
	c.mu.Unlock()
	switch order.Do {
	case crowdMute:
		c.watch(conn, nil)
	case crowdHello:
		c.watch(conn, helloOf(order.Host)[:100])
	case crowdClosed:
		if _, err := conn.Write(helloOf(order.Host)[:100]); err != nil {
			return err
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			return err
		}
		c.watch(conn, nil)
	case crowdHead:
		c.watch(conn, []byte(order.Request+strings.Repeat("X: y\r\n", 200)))
	case crowdBody:
		if _, err := io.WriteString(conn, order.Request); err != nil {
			return err
		}
		c.watch(conn, bytes.Repeat([]byte("x"), 1000))
	case crowdStream:
		if _, err := io.WriteString(conn, order.Request); err != nil {
			return err
		}
		answer := bufio.NewReaderSize(conn, 512)
		for seen := ""; !strings.HasPrefix(seen, "data: "); {
			if seen, err = answer.ReadString('\n'); err != nil {
				return fmt.Errorf("stream: %w", err)
			}
			if strings.HasPrefix(seen, "HTTP/1.1 ") && !strings.HasPrefix(seen, "HTTP/1.1 200 ") {
				return errors.New(strings.TrimSpace(seen))
			}
		}
		c.count("begun")
	}
	return nil
}

// watch says how a connection ends, and until then sends what is given, a byte in a while.
func (c *crowd) watch(conn net.Conn, slowly []byte) {
	ended := make(chan struct{})
	c.busy.Go(func() {
		defer close(ended)
		var first [64]byte
		n, err := conn.Read(first[:])
		line, _, _ := strings.Cut(string(first[:n]), "\r")
		switch {
		case n > 0 && strings.HasPrefix(line, "HTTP/"):
			c.count(line)
		case errors.Is(err, net.ErrClosed): // by us
		default:
			c.count("closed")
		}
	})
	if len(slowly) == 0 {
		return
	}
	c.busy.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for i := range slowly {
			if _, err := conn.Write(slowly[i : i+1]); err != nil {
				return
			}
			select {
			case <-ended:
				return
			case <-tick.C:
			}
		}
	})
}

// ask sends a request on an open connection.
func (c *crowd) ask(conn net.Conn, order crowdOrder) error {
	_ = conn.SetDeadline(time.Now().Add(order.Within))
	if _, err := io.WriteString(conn, order.Request); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	how := resp.Status
	if resp.StatusCode != http.StatusOK {
		how += " " + strings.TrimSpace(string(text))
	}
	c.count(how)
	return nil
}

// helloOf is a ClientHello.
func helloOf(host string) []byte {
	client, server := net.Pipe()
	defer client.Close()
	go func() {
		_ = tls.Client(client, &tls.Config{ServerName: host}).Handshake()
		_ = server.Close()
	}()
	b := make([]byte, 4096)
	n, err := server.Read(b)
	if err != nil {
		panic(err)
	}
	return b[:n]
}
