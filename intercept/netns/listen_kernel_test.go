package netns

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTheKernelGivesNobodyTheListenersPort: with the daemon dead it is free, and agents' connects still go there. The hook on
// bind(2) sees who asks for it by its number, and not who has the kernel choose.
func TestTheKernelGivesNobodyTheListenersPort(t *testing.T) {
	n := fresh(t)
	v4, v6, err := n.Loopback(t.Context())
	must(t, err)
	ports := []int{int(local(t, v4).Port()), int(local(t, v6).Port())}
	must(t, errors.Join(v4.Close(), v6.Close()))
	for _, port := range ports {
		for name, bound := range map[string]bool{"bind to port 0": true, "listen without bind": false} {
			got := 0
			must(t, n.Do(func() error {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer func() { _ = unix.Close(fd) }()
				const localPortRange = 51 // IP_LOCAL_PORT_RANGE
				err = unix.SetsockoptInt(fd, unix.SOL_IP, localPortRange, port|port<<16)
				if errors.Is(err, unix.ENOPROTOOPT) { // before Linux 6.3
					return nil
				}
				if err == nil && bound {
					err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
				}
				if err == nil {
					err = unix.Listen(fd, 1)
				}
				if err != nil {
					return err
				}
				at, err := unix.Getsockname(fd)
				if err == nil {
					got = at.(*unix.SockaddrInet4).Port
				}
				return err
			}))
			if got == port {
				t.Errorf("%s: it is given %d, the listener's", name, port)
			}
		}
	}
}

func TestLoopbackWhereTheKernelChoosesFromAllPorts(t *testing.T) {
	n := fresh(t)
	must(t, n.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("1024 65535"), 0)
	}))
	v4, v6, err := n.Loopback(t.Context())
	must(t, err)
	must(t, errors.Join(v4.Close(), v6.Close()))
}

func TestAside(t *testing.T) {
	t.Parallel()
	for chosen, want := range map[string][2]int{
		"32768\t60999\n": {61_000, 4536},
		"":               {61_000, 4536},
		"not numbers":    {61_000, 4536},
		"32768\t65535\n": {10_000, 22_768},
		"1024\t65535\n":  {0, 0},
		"1024\t65000\n":  {65_001, 535},
		"10100\t65500\n": {0, 0},
	} {
		if first, count := aside(chosen); [2]int{first, count} != want {
			t.Errorf("%q: %d ports from %d", chosen, count, first)
		}
	}
}
