package intercept

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/intercept/exchange"
)

// TestVanishedPeersOfASplice has one end of a connection that is passed on fall silent, by a firewall that drops
// its packets. With something to be acknowledged the kernel's own limit ends both halves, as it would have ended the
// agent's connection without us; net.ipv4.tcp_retries2 makes it three seconds here.
func TestVanishedPeersOfASplice(t *testing.T) {
	for name, who := range map[string]func(*street, *net.TCPConn) uint16{
		"origin": func(*street, *net.TCPConn) uint16 { return 443 },
		"client": func(_ *street, c *net.TCPConn) uint16 { return addrPort(c.LocalAddr()).Port() },
	} {
		t.Run(name, func(t *testing.T) {
			handlerEnded := make(chan struct{})
			s := newStreet(t, nil, func(c *net.TCPConn) {
				defer close(handlerEnded)
				talk(c)
			})
			s.inside(func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_retries2", []byte("3"), 0) })
			c := s.connect(s.origin443())
			must(t, c.SetDeadline(time.Now().Add(30*time.Second)))
			clientEnded := make(chan struct{})
			go func() {
				defer close(clientEnded)
				talk(c)
			}()
			eventually(t, "it is passed on", func() bool { return s.Counters().Spliced == 1 })
			began := time.Now()
			port := who(s, c)
			for _, rule := range []string{
				"add table inet vanish", "add chain inet vanish out { type filter hook output priority 0; }",
				fmt.Sprintf("add rule inet vanish out tcp dport %d drop", port), fmt.Sprintf("add rule inet vanish out tcp sport %d drop", port),
			} {
				s.inside(func() error { return exec.Command("nft", rule).Run() })
			}
			for s.Connections() > 0 {
				if time.Since(began) > 15*time.Second {
					t.Fatal("it goes on without its " + name)
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Logf("ended after %s", time.Since(began))
			if s.inside(func() error { return exec.Command("nft", "delete table inet vanish").Run() }); name == "client" {
				<-handlerEnded
			} else {
				<-clientEnded
			}
			_ = c.Close()
			<-clientEnded
			<-handlerEnded
		})
	}
}

// talk sends all the time and reads what comes, until either fails.
func talk(c *net.TCPConn) {
	over := make(chan struct{})
	go func() {
		defer close(over)
		for buf := make([]byte, 4096); ; {
			if _, err := c.Read(buf); err != nil {
				return
			}
		}
	}()
	for {
		select {
		case <-over:
			return
		case <-time.After(20 * time.Millisecond):
		}
		if _, err := c.Write([]byte("more")); err != nil {
			_ = c.Close()
			<-over
			return
		}
	}
}

func (s *street) inside(f func() error) {
	s.t.Helper()
	must(s.t, s.ns.Do(f))
}

// TestUpstreamsAreGivenUp looks at what is asked of the kernel for a connection to an upstream.
func TestUpstreamsAreGivenUp(t *testing.T) {
	s := newStreet(t, nil, echoBack)
	for limit, want := range map[time.Duration][3]int{
		time.Minute:      {60_000, 15, 15},
		8 * time.Second:  {8_000, 2, 2},
		90 * time.Second: {90_000, 23, 23}, // rounded up
	} {
		d := NewDialer(limit)
		h := d.add(s.ns)
		c, err := d.Dial(t.Context(), exchange.Upstream{NetNS: s.ns.Cookie(), Addr: addrPort(s.origin.Addr())})
		must(t, err)
		raw, err := c.SyscallConn()
		must(t, err)
		var got [3]int
		must(t, raw.Control(func(fd uintptr) {
			for i, option := range []int{unix.TCP_USER_TIMEOUT, unix.TCP_KEEPIDLE, unix.TCP_KEEPINTVL} {
				got[i], err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option)
				must(t, err)
			}
		}))
		if got != want {
			t.Errorf("%s: %v, want %v", limit, got, want)
		}
		must(t, c.Close())
		_ = h
	}
}
