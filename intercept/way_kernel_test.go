package intercept

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestConnectsByIPv6FailWhereItLeadsNowhere: names have addresses of IPv6 everywhere, and most containers no way to them. Clients try them in
// turn, as long as connect(2) tells them.
func TestConnectsByIPv6FailWhereItLeadsNowhere(t *testing.T) {
	r := newRoad(t, func(c *net.TCPConn) { _, _ = c.Write([]byte("origin")) })
	connect := func() string {
		return shell(t, r.dir, r.ns, `python3 -c "
import errno, socket
s = socket.socket(socket.AF_INET6)
s.settimeout(5)
n = s.connect_ex(('2001:db8::9', 443))
if n == 0:
    s.sendall(b'neither TLS nor HTTP')
    try: s.recv(1)
    except OSError: pass
print(errno.errorcode.get(n, n), end='')"`)
	}
	if got := connect(); got != "ENETUNREACH" {
		t.Fatalf("connect: %s", got)
	}
	if got := r.python(t, "print(s.recv(9).decode(), end='')"); got != "origin" {
		t.Errorf("the next address: %q", got)
	}
	change := func(change func(*netlink.Handle, netlink.Link, *netlink.Addr) error) {
		t.Helper()
		must(t, r.ns.Do(func() error {
			h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err != nil {
				return err
			}
			defer h.Close()
			link, err := h.LinkByName("v0")
			if err != nil {
				return err
			}
			a, err := netlink.ParseAddr("2001:db8::1/64")
			if err != nil {
				return err
			}
			a.Flags = unix.IFA_F_NODAD
			return change(h, link, a)
		}))
	}
	// A way comes, and goes again.
	change(func(h *netlink.Handle, l netlink.Link, a *netlink.Addr) error { return h.AddrAdd(l, a) })
	eventually(t, "it is found out that there is a way", func() bool { return connect() == "0" })
	change(func(h *netlink.Handle, l netlink.Link, a *netlink.Addr) error { return h.AddrDel(l, a) })
	eventually(t, "it is found out that there is none", func() bool { return connect() == "ENETUNREACH" })
}
