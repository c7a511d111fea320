package guard

import (
	"errors"
	"net"
	"os"
	"runtime"
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

func TestDestroy(t *testing.T) {
	enter(t)
	for _, addr := range []string{"192.0.2.1:443", "[2001:db8::1]:443"} {
		c := pair(t, addr)
		seen := map[uint64]bool{}
		note := func(id uint64) bool { seen[id] = true; return false }
		if n, err := Destroy(note, []uint16{443}); n != 0 || err != nil || len(seen) != 1 {
			t.Fatalf("%s: nothing wanted: %d destroyed, %v; cgroups %v", addr, n, err, seen)
		}
		all := func(uint64) bool { return true }
		if n, err := Destroy(all, []uint16{444}); n != 0 || err != nil {
			t.Fatalf("%s: another port: %d destroyed, %v", addr, n, err)
		}
		if n, err := Destroy(all, []uint16{443}); n != 1 || err != nil {
			t.Fatalf("%s: %d destroyed, %v", addr, n, err)
		}
		if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("%s: the client reads %v", addr, err)
		}
	}
}

func TestDestroySparesLoopback(t *testing.T) {
	enter(t)
	pair(t, "127.0.0.1:443")
	pair(t, "[::1]:443")
	if n, err := Destroy(func(uint64) bool { return true }, []uint16{443}); n != 0 || err != nil {
		t.Errorf("%d destroyed, %v", n, err)
	}
}
