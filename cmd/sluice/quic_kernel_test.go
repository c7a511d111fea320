package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// quicFallback is how long a client may need to find out that there is no QUIC.
const quicFallback = 100 * time.Millisecond

// quicWays are the sockets that QUIC clients use. A connected one is refused by connect(2), the others by the
// first sendmsg(2).
var quicWays = []struct {
	name, network string
	connected, v6 bool
}{
	{"unconnected IPv4", "udp4", false, false},
	{"unconnected IPv6", "udp6", false, true},
	{"unconnected, v4-mapped", "udp", false, false}, // the library's own choice
	{"connected IPv4", "udp4", true, false},
	{"connected IPv6", "udp6", true, true},
}

// quicClient is a command of the tests: for each way HTTP/3 first, and TCP to the same address when that fails. Its
// arguments are the server's addresses, v4 and v6.
func quicClient() {
	for _, way := range quicWays {
		ip := net.ParseIP(os.Args[1])
		if way.v6 {
			ip = net.ParseIP(os.Args[2])
		}
		fastest := time.Hour // of a few: the machine may be busy with something else
		for range 3 {
			began := time.Now()
			if err := quicAsk(way.network, ip, way.connected); err == nil {
				fmt.Printf("%s: it was let through\n", way.name)
				os.Exit(1)
			}
			fastest = min(fastest, time.Since(began))
		}
		said := "refused at once"
		if fastest >= quicFallback {
			said = "refused after " + fastest.String()
		}
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(ip.String(), "443"))
		}}}
		answer, err := client.Do(quicRequest(context.Background()))
		if err != nil {
			fmt.Printf("%s: %v\n", way.name, err)
			os.Exit(1)
		}
		_ = answer.Body.Close()
		fmt.Printf("%s: %s, tcp %d\n", way.name, said, answer.StatusCode)
	}
}

func quicRequest(ctx context.Context) *http.Request {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+loadHost+"/v1/models", nil)
	if err != nil {
		panic(err)
	}
	request.Header.Set("Authorization", "Bearer "+os.Getenv("OPENAI_API_KEY"))
	return request
}

// quicAsk is a request over HTTP/3 alone.
func quicAsk(network string, ip net.IP, connected bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	to := &net.UDPAddr{IP: ip, Port: 443}
	var err error
	var socket net.PacketConn
	if connected {
		var c *net.UDPConn
		c, err = net.DialUDP(network, nil, to)
		socket = onlyTo{c}
	} else {
		socket, err = net.ListenUDP(network, nil)
	}
	if err != nil {
		return err
	}
	carrier := &quic.Transport{Conn: socket}
	defer func() { _ = carrier.Close(); _ = socket.Close() }()
	transport := &http3.Transport{Dial: func(ctx context.Context, _ string, t *tls.Config, c *quic.Config) (*quic.Conn, error) {
		return carrier.DialEarly(ctx, to, t, c)
	}}
	answer, err := transport.RoundTrip(quicRequest(ctx))
	if err == nil {
		err = answer.Body.Close()
	}
	return errors.Join(err, transport.Close())
}

// onlyTo is a connected socket to a library that says with each packet where it goes.
type onlyTo struct{ *net.UDPConn }

func (o onlyTo) WriteTo(p []byte, _ net.Addr) (int, error) { return o.Write(p) }

// TestQUICClientFallsBack lets QUIC clients find out that UDP to a bound port is refused, at once and not by a
// time-out: quic-go's, on each kind of socket that there is, and that of ngtcp2, the library that curl uses.
func TestQUICClientFallsBack(t *testing.T) {
	needs(t, "gtlsclient")
	h := newHouse(t, nil)
	client := filepath.Join(h.dir, "quic-client")
	if err := os.Symlink(h.path, client); err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for _, way := range quicWays {
		fmt.Fprintf(&want, "%s: refused at once, tcp 200\n", way.name)
	}
	if got := h.output(client, h.pair.ServerIP4, h.pair.ServerIP6); got != want.String() {
		t.Errorf("%s, want %s", got, want.String())
	}
	h.seen(0, len(quicWays))

	// This one has nothing to fall back to, and waits ten seconds for a server that says nothing.
	fastest := map[string]time.Duration{h.pair.ServerIP4: time.Hour, h.pair.ServerIP6: time.Hour}
	out := h.output("sh", "-c", `for ip in "$@" "$@" "$@"; do
		began=$(date +%s%N)
		said=$(gtlsclient --quiet "$ip" 443 https://`+loadHost+`/v1/models 2>&1 | sort -u | tr '\n' ' ')
		echo "$ip $(($(date +%s%N) - began)) $said"
	done`, "sh", h.pair.ServerIP4, h.pair.ServerIP6)
	for line := range strings.Lines(out) {
		var ip string
		var took time.Duration
		if _, err := fmt.Sscan(line, &ip, &took); err != nil || !strings.Contains(line, "Connection refused") {
			t.Errorf("ngtcp2's client: %s", line)
		}
		fastest[ip] = min(fastest[ip], took)
	}
	for ip, took := range fastest {
		if took >= quicFallback {
			t.Errorf("ngtcp2's client took %s for %s", took, ip)
		}
	}
}
