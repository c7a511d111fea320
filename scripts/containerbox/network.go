package containerbox

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// HostLink gives the host a link to a network namespace of the test's own, for containers that are on
// the host's network: what listens in ns at addr is what they may talk to. The addresses are of the range for benchmarks (RFC 2544).
func HostLink(t testing.TB) (ns string, addr netip.Addr) {
	t.Helper()
	ns = kerneltest.NetNS(t)
	// Other tests may do the same at the same time: a /30 for each.
	n := uint16(os.Getpid())<<2 ^ uint16(sequence.Add(1))<<8
	host, server := netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)&^3 | 1}), netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)&^3 | 2})
	name, inside := fmt.Sprintf("box%d", n), filepath.Base(ns)
	for _, args := range []string{
		"link add " + name + " type veth peer name eth0 netns " + inside,
		"addr add " + host.String() + "/30 dev " + name,
		"link set " + name + " up",
		"-n " + inside + " addr add " + server.String() + "/30 dev eth0",
		"-n " + inside + " link set eth0 up",
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "link", "del", name).CombinedOutput(); err != nil {
			t.Errorf("remove link %s: %v: %s", name, err, out)
		}
	})
	return ns, server
}
