package netns

import (
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// IsGlobal6 tells whether an address is one of IPv6's internet: 2000::/3 (IANA, global unicast addresses).
func IsGlobal6(ip netip.Addr) bool { return ip.Is6() && ip.As16()[0]>>5 == 1 }

// Global6 tells whether the namespace has a way to addresses of IPv6's internet: a route to any, or an address of its own
// among them, and with that at least those on the same link.
func (n *NS) Global6() (there bool, err error) {
	err = n.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil // nobody can ask for IPv6 here
		}
		defer unix.Close(fd)
		// To connect a socket of datagrams is to look for a route. Nothing is sent.
		anywhere := [16]byte{0: 0x20, 15: 1}
		if there = unix.Connect(fd, &unix.SockaddrInet6{Port: 9, Addr: anywhere}) == nil; there {
			return nil
		}
		own, err := net.InterfaceAddrs()
		for _, a := range own {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil && IsGlobal6(prefix.Addr()) {
				there = true
			}
		}
		return err
	})
	return there, err
}
