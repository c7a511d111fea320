package guard

import (
	"errors"
	"net"
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// enter puts the test's thread into a namespace with an address of either family; the
// thread ends with the test.
func enter(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("SLUICE_KERNEL_TESTS") == "require" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	runtime.LockOSThread()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	ns.Close()
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v0"}, PeerName: "v1"}
	lo, loErr := netlink.LinkByName("lo")
	if err := errors.Join(loErr, netlink.LinkAdd(link)); err != nil {
		t.Fatal(err)
	}
	v4, _ := netlink.ParseAddr("192.0.2.1/24")
	v6, _ := netlink.ParseAddr("2001:db8::1/64")
	v6.Flags = unix.IFA_F_NODAD
	if err := errors.Join(netlink.AddrAdd(link, v4), netlink.AddrAdd(link, v6), netlink.LinkSetUp(lo), netlink.LinkSetUp(link)); err != nil {
		t.Fatal(err)
	}
}

// pair is a connection to addr, the client's side.
func pair(t *testing.T, addr string) net.Conn {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// datagrams is a connected socket of UDP to addr.
func datagrams(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestOlderAreFoundNamedAndDestroyed(t *testing.T) {
	enter(t)
	for _, c := range []struct {
		protocol, state string
		open            func(*testing.T, string) net.Conn
		addr            string
	}{
		{"tcp", "ESTAB", pair, "192.0.2.1:443"},
		{"tcp", "ESTAB", pair, "[2001:db8::1]:443"},
		{"udp", "ESTAB", datagrams, "192.0.2.7:443"},
		{"udp", "ESTAB", datagrams, "[2001:db8::7]:443"},
	} {
		conn := c.open(t, c.addr)
		name := c.protocol + " " + conn.RemoteAddr().String()
		seen := map[uint64]bool{}
		note := func(id uint64) bool { seen[id] = true; return false }
		if found, err := Older(note, nil, []uint16{443}); len(found) != 0 || err != nil || len(seen) != 1 {
			t.Fatalf("%s: nothing wanted: %v, %v; cgroups %v", name, found, err, seen)
		}
		all := func(uint64) bool { return true }
		if found, err := Older(all, nil, []uint16{444}); len(found) != 0 || err != nil {
			t.Fatalf("%s: another port: %v, %v", name, found, err)
		}
		// A socket that was made in another cgroup is the process's that holds it.
		if found, err := Older(note, HeldBy([]int{os.Getpid()}), []uint16{443}); len(found) == 0 || err != nil {
			t.Errorf("%s: held: %v, %v", name, found, err)
		}
		found, err := Older(all, HeldBy([]int{os.Getpid()}), []uint16{443})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(found, func(f Connection) bool { return f.Local.String() == conn.LocalAddr().String() })
		if i < 0 {
			t.Fatalf("%s: not found in %v", name, found)
		}
		f := found[i]
		if f.Protocol != c.protocol || f.State != c.state || f.Remote.String() != conn.RemoteAddr().String() || f.PID != os.Getpid() || f.Command == "" {
			t.Errorf("%s: %+v", name, f)
		}
		raw, err := conn.(interface {
			SyscallConn() (syscall.RawConn, error)
		}).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var cookie uint64
		_ = raw.Control(func(fd uintptr) { cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE) })
		if err != nil || cookie != f.Cookie {
			t.Errorf("%s: cookie %d, is %d, %v", name, f.Cookie, cookie, err)
		}
		if open, err := Cookies(); err != nil || !open[cookie] {
			t.Errorf("%s: not among the open ones, %v", name, err)
		}
		for _, f := range found {
			if err := f.Destroy(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := f.Destroy(); err != nil {
				t.Errorf("%s: a second time: %v", name, err)
			}
		}
		if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("%s: the client reads %v", name, err)
		}
	}
}

// A server's connections are not its clients', whatever port those come from.
func TestOlderSparesLoopbackAndServers(t *testing.T) {
	enter(t)
	pair(t, "127.0.0.1:443")
	pair(t, "[::1]:443")
	l, err := net.Listen("tcp", "192.0.2.1:7000")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 8443}}
	client, err := d.Dial("tcp", "192.0.2.1:7000")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	served, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { served.Close() })
	if found, err := Older(func(uint64) bool { return true }, nil, []uint16{443, 8443}); len(found) != 0 || err != nil {
		t.Errorf("%+v, %v", found, err)
	}
}
