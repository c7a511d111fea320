package bpf_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// What an agent with CAP_NET_RAW does, and the packets that it makes itself.

// htons is a value as the kernel takes it in an address structure.
func htons(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// packetSocket is the one of the name in Socket, kept if it was there before, or a new one; done closes one without a name.
func (s *state) packetSocket(o order) (fd int, kept bool, done func(), err error) {
	if fd, kept = s.sockets[o.Socket]; kept {
		return fd, true, func() {}, nil
	}
	if fd, err = unix.Socket(unix.AF_PACKET, o.Type|unix.SOCK_CLOEXEC, 0); err != nil {
		return 0, false, nil, err
	}
	if o.Socket == "" {
		return fd, false, func() { _ = unix.Close(fd) }, nil
	}
	s.sockets[o.Socket] = fd
	return fd, false, func() {}, nil
}

// frame sends Bytes by the link Index through a packet socket; Proto is what the sender says that they are. With a Socket it uses the one
// of that name, or makes it and sends nothing.
func (s *state) frame(o order) (answer, error) {
	if o.Type == 0 {
		o.Type = unix.SOCK_RAW
	}
	fd, kept, done, err := s.packetSocket(o)
	if err != nil {
		return answer{}, err
	}
	defer done()
	if o.Bypass {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
			return answer{}, err
		}
	}
	if o.Segment {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
			return answer{}, err
		}
	}
	if !kept && o.Socket != "" {
		return answer{}, nil
	}
	to := &unix.SockaddrLinklayer{Protocol: htons(uint16(o.Proto)), Ifindex: o.Index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
	return answer{}, unix.Sendto(fd, o.Bytes, 0, to)
}

// raw sends Bytes through a raw socket.
func (s *state) raw(o order) (answer, error) {
	o.Type = unix.SOCK_RAW
	fd, err := s.make(o)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	dst, ap := sockaddr(o.Dst)
	if o.HeaderIncluded && ap.Addr().Is4() {
		err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_HDRINCL, 1)
	} else if o.HeaderIncluded {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_HDRINCL, 1)
	}
	if err != nil {
		return answer{}, fmt.Errorf("header: %s", err)
	}
	return answer{}, unix.Sendto(fd, o.Bytes, 0, dst)
}

// option sets the option N of level Proto on a socket of Family.
func (s *state) option(o order) (answer, error) {
	fd, err := unix.Socket(o.Family, o.Type|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return answer{}, fmt.Errorf("socket: %s", err)
	}
	defer func() { _ = unix.Close(fd) }()
	return answer{}, unix.SetsockoptString(fd, o.Proto, o.N, string(o.Bytes))
}

// cookie tells the kernel's id of a socket.
func (s *state) cookie(o order) (answer, error) {
	id, err := unix.GetsockoptUint64(s.sockets[o.Socket], unix.SOL_SOCKET, unix.SO_COOKIE)
	return answer{N: int(id)}, err
}

func (s *state) say(o order) (answer, error) {
	return answer{}, unix.Send(s.sockets[o.Socket], []byte(o.Data), unix.MSG_NOSIGNAL)
}

// ping asks with a raw ICMP socket, and waits for the answer.
func (s *state) ping(o order) (answer, error) {
	fd, err := s.make(order{Dst: o.Dst, Type: unix.SOCK_RAW, Proto: unix.IPPROTO_ICMP})
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	dst, _ := sockaddr(o.Dst)
	echo := []byte{8, 0, 0, 0, 0, 1, 0, 1}
	binary.BigEndian.PutUint16(echo[2:], sum(echo))
	if err := unix.Sendto(fd, echo, 0, dst); err != nil {
		return answer{}, err
	}
	for got := make([]byte, 256); ; {
		n, err := unix.Read(fd, got)
		if err != nil {
			return answer{}, err
		}
		if n >= 28 && got[20] == 0 { // not our own request
			return answer{Said: "echo reply"}, nil
		}
	}
}

func (s *state) listen(o order) (answer, error) {
	fd, err := s.make(order{Dst: o.Dst, ReuseAddr: o.ReuseAddr})
	if err != nil {
		return answer{}, err
	}
	s.sockets[o.Socket] = fd
	sa, _ := sockaddr(o.Dst)
	return answer{}, errors.Join(unix.Bind(fd, sa), unix.Listen(fd, 8))
}

// accept takes a connection, says hello and tells what was said back.
func (s *state) accept(o order) (answer, error) {
	fd, _, err := unix.Accept4(s.sockets[o.Socket], unix.SOCK_CLOEXEC)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Send(fd, []byte("hello"), unix.MSG_NOSIGNAL); err != nil {
		return answer{}, err
	}
	return hear(fd)
}

// sum is the checksum of RFC 1071.
func sum(b []byte) uint16 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

// ether is a frame to everybody; the tags are 802.1Q's or 802.1ad's EtherTypes.
func ether(kind uint16, payload []byte, tags ...uint16) []byte {
	f := slices.Concat(slices.Repeat([]byte{255}, 6), []byte{2, 0, 0, 0, 0, 1})
	for _, tag := range tags {
		f = binary.BigEndian.AppendUint16(f, tag)
		f = append(f, 0, 1)
	}
	return append(binary.BigEndian.AppendUint16(f, kind), payload...)
}

// ip4 is a packet from the agent to the origin (RFC 791 section 3.1).
func ip4(protocol byte, fragment uint16, options, payload []byte) []byte {
	src, dst := netip.MustParseAddr("10.77.0.2").As4(), netip.MustParseAddr("10.77.0.1").As4()
	h := []byte{byte(0x45 + len(options)/4), 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0}
	h = slices.Concat(h, src[:], dst[:], options)
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(payload)))
	binary.BigEndian.PutUint16(h[6:], fragment)
	binary.BigEndian.PutUint16(h[10:], sum(h))
	return append(h, payload...)
}

// ip6 is the same in IPv6 (RFC 8200 section 3).
func ip6(next byte, payload []byte) []byte {
	src, dst := netip.MustParseAddr("fd77::2").As16(), netip.MustParseAddr("fd77::1").As16()
	h := []byte{0x60, 0, 0, 0, 0, 0, next, 64}
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	return slices.Concat(h, src[:], dst[:], payload)
}

// extension is an IPv6 extension header of 8 bytes before what follows.
func extension(next byte, payload []byte) []byte {
	return append([]byte{next, 0, 1, 4, 0, 0, 0, 0}, payload...)
}

const (
	syn = 0x02
	ack = 0x10
)

// tcp is a segment; its checksum is left out, as nobody is to receive it.
func tcp(dport uint16, flags byte, data string) []byte {
	h := []byte{0x9c, 0x40, byte(dport >> 8), byte(dport), 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 1, 0, 0, 0, 0, 0}
	return append(h, data...)
}

// udp is a datagram without a checksum; UDP-Lite, SCTP and DCCP have the ports in the same place.
func udp(dport uint16, data string) []byte {
	h := []byte{0x9c, 0x40, byte(dport >> 8), byte(dport), 0, 0, 0, 0}
	binary.BigEndian.PutUint16(h[4:], uint16(8+len(data)))
	return append(h, data...)
}
