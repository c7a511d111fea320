package guard

import (
	"encoding/binary"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// message builds what the kernel sends for a socket.
func message(family uint8, dst netip.AddrPort, cgroup uint64) []byte {
	m := make([]byte, messageSize)
	m[0] = family
	binary.BigEndian.PutUint16(m[4+dstPortAt:], dst.Port())
	copy(m[4+dstAddrAt:], dst.Addr().AsSlice())
	m = append(m, 5, 0, 5, 0, 0xaa, 0, 0, 0) // another attribute, padded
	m = binary.NativeEndian.AppendUint16(m, 12)
	m = binary.NativeEndian.AppendUint16(m, 21)
	return binary.NativeEndian.AppendUint64(m, cgroup)
}

// TestHeldByEnds: an agent's processes may hold any number of descriptors, at no cost where they share them.
func TestHeldByEnds(t *testing.T) {
	t.Parallel()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	fds := p[:]
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	for range 500 {
		fd, err := unix.FcntlInt(uintptr(p[0]), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
	}
	var st unix.Stat_t
	if err := unix.Fstat(p[0], &st); err != nil {
		t.Fatal(err)
	}
	const bound = 20 * time.Second // of a busy machine; it was more than a minute
	begin := time.Now()
	held := HeldBy(slices.Repeat([]int{os.Getpid()}, 200_000))
	if took := time.Since(begin); took > bound {
		t.Errorf("it took %v", took)
	}
	if h := held[uint32(st.Ino)]; h.pid != os.Getpid() {
		t.Errorf("held by %+v", h)
	}
}

func TestOlder(t *testing.T) {
	t.Parallel()
	wanted := func(id uint64) bool { return id == 7 }
	for name, c := range map[string]struct {
		family uint8
		dst    string
		cgroup uint64
		want   bool
	}{
		"past the redirect":       {unix.AF_INET, "192.0.2.1:443", 7, true},
		"IPv6":                    {unix.AF_INET6, "[2001:db8::1]:443", 7, true},
		"v4-mapped":               {unix.AF_INET6, "[::ffff:192.0.2.1]:443", 7, true},
		"redirected":              {unix.AF_INET, "127.0.0.1:443", 7, false},
		"redirected, IPv6":        {unix.AF_INET6, "[::1]:443", 7, false},
		"redirected, v4-mapped":   {unix.AF_INET6, "[::ffff:127.0.0.1]:443", 7, false},
		"another port":            {unix.AF_INET, "192.0.2.1:80", 7, false},
		"another cgroup":          {unix.AF_INET, "192.0.2.1:443", 8, false},
		"the kernel did not tell": {unix.AF_INET, "192.0.2.1:443", 0, false},
	} {
		s, ok := parse(message(c.family, netip.MustParseAddrPort(c.dst), c.cgroup))
		if !ok {
			t.Errorf("%s: not understood", name)
		}
		if got := past([]Connection{s}, wanted, nil, []uint16{443}); len(got) == 1 != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestOlderInDisguise: who is connected may listen on its own port as well, as if it were a server of the other side.
func TestOlderInDisguise(t *testing.T) {
	t.Parallel()
	own := netip.MustParseAddrPort("192.0.2.2:7000")
	for name, c := range map[string]struct {
		remote string
		want   bool
	}{
		"a port that no client comes from": {"192.0.2.1:443", true},
		"a port that one may come from":    {"192.0.2.1:8443", false},
	} {
		found := []Connection{
			{Local: own, state: stateListen},
			{Local: own, Remote: netip.MustParseAddrPort(c.remote), state: stateEstablished, cgroup: 7},
		}
		if got := past(found, func(uint64) bool { return true }, nil, []uint16{443, 8443}); len(got) == 1 != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(message(unix.AF_INET, netip.MustParseAddrPort("192.0.2.1:443"), 7))
	f.Add(message(unix.AF_INET6, netip.MustParseAddrPort("[::1]:443"), 7)[:messageSize+6])
	f.Fuzz(func(t *testing.T, m []byte) {
		if s, ok := parse(m); ok && !s.Remote.IsValid() {
			t.Errorf("no destination in %x", m)
		}
	})
}
