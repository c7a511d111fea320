package bpf

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

// FuzzFlowKey holds that two connections have the same key if and only if they are the
// same to the kernel, where a v4-mapped address is the IPv4 one; and that a key's bytes are
// those that redirect.h lays out.
func FuzzFlowKey(f *testing.F) {
	v4, mapped, v6 := []byte{127, 0, 0, 1}, netip.MustParseAddr("::ffff:127.0.0.1").AsSlice(), netip.MustParseAddr("fe80::1").AsSlice()
	f.Add(uint64(1), v4, uint16(40000), uint64(1), mapped, uint16(40000), uint16(7))
	f.Add(uint64(1<<63), v6, uint16(0xffff), uint64(1), v4, uint16(0), uint16(0xff00))
	f.Fuzz(func(t *testing.T, cookie1 uint64, ip1 []byte, port1 uint16, cookie2 uint64, ip2 []byte, port2, listener uint16) {
		a, ok1 := netip.AddrFromSlice(ip1)
		b, ok2 := netip.AddrFromSlice(ip2)
		if !ok1 || !ok2 {
			return
		}
		local := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), listener)
		key := flowKey(cookie1, netip.AddrPortFrom(a, port1), local)
		other := flowKey(cookie2, netip.AddrPortFrom(b.WithZone("eth0"), port2), local)
		same := cookie1 == cookie2 && a.Unmap() == b.Unmap() && port1 == port2
		if (key == other) != same {
			t.Fatalf("%v and %v, of %v %v and %v %v", key, other, a, port1, b, port2)
		}
		if got := address(key.Peer.Word); got != a.Unmap() {
			t.Fatalf("%v became %v", a, got)
		}
		var wire bytes.Buffer
		if err := binary.Write(&wire, binary.NativeEndian, key); err != nil {
			t.Fatal(err)
		}
		want := binary.NativeEndian.AppendUint64(nil, cookie1)
		ip := a.As16()
		want = append(want, ip[:]...)
		want = binary.NativeEndian.AppendUint16(want, port1)
		want = binary.NativeEndian.AppendUint16(want, listener)
		if want = append(want, 0, 0, 0, 0); !bytes.Equal(wire.Bytes(), want) {
			t.Fatalf("%x, want %x", wire.Bytes(), want)
		}
	})
}

func TestTakeOfNobody(t *testing.T) {
	t.Parallel()
	if _, ok, err := new(Redirect).Take(1, netip.AddrPort{}, netip.AddrPort{}); ok || err != nil {
		t.Error(ok, err)
	}
}
