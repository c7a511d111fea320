package splice

import (
	"fmt"
	"io"
	"net"
	"testing"
)

// held is how many pipes are open, and how many of them wait.
func (p *Pipes) held() (made, idle int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.made, len(p.idle)
}

// Connections on which nothing happens hold no pipe, however many there are.
func TestIdleRelaysHoldNoPipe(t *testing.T) {
	t.Parallel()
	pipes := NewPipes(1)
	t.Cleanup(pipes.Close)
	const relays = 50
	var clients, servers [relays]*net.TCPConn
	var ended [relays]<-chan result
	for i := range relays {
		clients[i], servers[i], ended[i] = relayBy(t, t.Context(), pipes)
	}
	for round := range 3 {
		for i := range relays {
			word := fmt.Sprintf("%d of round %d", i, round)
			for _, way := range [][2]*net.TCPConn{{clients[i], servers[i]}, {servers[i], clients[i]}} {
				if _, err := io.WriteString(way[0], word); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, len(word))
				if _, err := io.ReadFull(way[1], got); err != nil || string(got) != word {
					t.Fatalf("got %q, %v", got, err)
				}
			}
		}
	}
	for i := range relays {
		_ = clients[i].Close()
		_ = servers[i].Close()
		if r := wait(t, ended[i]); r.err != nil || r.up != r.down || r.up == 0 {
			t.Errorf("relay %d: %+v", i, r)
		}
	}
	if made, idle := pipes.held(); made > 1 || made != idle {
		t.Errorf("%d pipes were made and %d given back", made, idle)
	}
}

// Where there is no pipe the bytes are copied, and nothing else is different.
func TestRelayWithoutPipes(t *testing.T) {
	t.Parallel()
	const up, down = 8<<20 + 1, 8<<20 - 1
	client, server, ended := relayBy(t, t.Context(), NewPipes(0))
	swap(t, client, server, up, down)
	if r := wait(t, ended); r != (result{up: up, down: down}) {
		t.Fatalf("got %+v", r)
	}
}

// A pipe whose bytes nobody took is not given to the next relay.
func TestBrokenRelayLeavesNoBytesBehind(t *testing.T) {
	t.Parallel()
	pipes := NewPipes(2)
	for range 3 {
		client, server, ended := relayBy(t, t.Context(), pipes)
		if _, err := server.Write(make([]byte, 1<<20)); err != nil { // the client reads none of it
			t.Fatal(err)
		}
		_ = client.SetLinger(0)
		_ = client.Close()
		_ = server.Close()
		wait(t, ended)
	}
	if made, idle := pipes.held(); made != idle {
		t.Errorf("%d pipes are open and %d of them wait", made, idle)
	}
	pipes.Close()
	if made, idle := pipes.held(); made != 0 || idle != 0 {
		t.Errorf("closed, there are %d pipes, %d of them waiting", made, idle)
	}
}
