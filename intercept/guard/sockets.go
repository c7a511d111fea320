package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Sizes and offsets of include/uapi/linux/inet_diag.h.
const (
	sockIDSize   = 48 // struct inet_diag_sockid: ports, addresses, interface, cookie
	requestSize  = 8 + sockIDSize
	messageSize  = 4 + sockIDSize + 20 // struct inet_diag_msg; attributes follow
	dstPortAt    = 2                   // in the sockid, big endian
	dstAddrAt    = 20
	attrHeader   = 4
	attrTypeMask = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
)

// openStates are the TCP states in which a socket can still send or receive
// (include/net/tcp_states.h): ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT.
const openStates = 1<<1 | 1<<2 | 1<<4 | 1<<5 | 1<<8

// socket is one that sock_diag told of.
type socket struct {
	family uint8
	id     [sockIDSize]byte
	dst    netip.AddrPort
	cgroup uint64 // 0: the kernel did not say (before Linux 5.9)
}

// Destroy closes the TCP connections of the calling thread's network namespace that
// sockets of the wanted cgroups have to one of the ports, loopback excepted: their
// process gets ECONNABORTED, and connects anew. It returns how many there were. It needs
// CAP_NET_ADMIN, Linux 5.9 and CONFIG_INET_DIAG_DESTROY.
func Destroy(wanted func(cgroupID uint64) bool, ports []uint16) (int, error) {
	var n int
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		found, err := list(family)
		if err != nil {
			return n, fmt.Errorf("list sockets: %w", err)
		}
		for _, s := range found {
			if !older(s, wanted, ports) {
				continue
			}
			switch err := destroy(s); {
			case err == nil:
				n++
			case errors.Is(err, unix.ENOENT): // closed by itself meanwhile
			default:
				return n, fmt.Errorf("destroy the connection to %s: %w", s.dst, err)
			}
		}
	}
	return n, nil
}

// older tells whether a socket got past the redirect. One that was redirected is
// connected to a loopback address.
func older(s socket, wanted func(uint64) bool, ports []uint16) bool {
	return !s.dst.Addr().IsLoopback() && slices.Contains(ports, s.dst.Port()) && s.cgroup != 0 && wanted(s.cgroup)
}

// request is struct inet_diag_req_v2.
type request struct {
	family uint8
	states uint32
	id     [sockIDSize]byte
}

func (r *request) Len() int { return requestSize }

func (r *request) Serialize() []byte {
	out := make([]byte, 0, requestSize)
	out = append(out, r.family, unix.IPPROTO_TCP, 0, 0)
	out = binary.NativeEndian.AppendUint32(out, r.states)
	return append(out, r.id[:]...)
}

func list(family uint8) ([]socket, error) {
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.AddData(&request{family: family, states: openStates})
	messages, err := req.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, err
	}
	var found []socket
	for _, m := range messages {
		if s, ok := parse(m); ok {
			found = append(found, s)
		}
	}
	return found, nil
}

func destroy(s socket) error {
	req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	req.AddData(&request{family: s.family, id: s.id})
	_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	return err
}

// parse reads struct inet_diag_msg and the attribute that tells the cgroup.
func parse(m []byte) (socket, bool) {
	if len(m) < messageSize {
		return socket{}, false
	}
	s := socket{family: m[0], id: [sockIDSize]byte(m[4 : 4+sockIDSize])}
	var ip netip.Addr
	switch s.family {
	case unix.AF_INET:
		ip = netip.AddrFrom4([4]byte(s.id[dstAddrAt : dstAddrAt+4]))
	case unix.AF_INET6:
		ip = netip.AddrFrom16([16]byte(s.id[dstAddrAt : dstAddrAt+16])).Unmap()
	default:
		return socket{}, false
	}
	s.dst = netip.AddrPortFrom(ip, binary.BigEndian.Uint16(s.id[dstPortAt:]))
	for rest := m[messageSize:]; len(rest) >= attrHeader; {
		size := int(binary.NativeEndian.Uint16(rest))
		if size < attrHeader || size > len(rest) {
			break
		}
		kind := binary.NativeEndian.Uint16(rest[2:]) & attrTypeMask
		if kind == netlink.INET_DIAG_CGROUP_ID && size >= attrHeader+8 {
			s.cgroup = binary.NativeEndian.Uint64(rest[attrHeader:])
		}
		rest = rest[min((size+3)&^3, len(rest)):]
	}
	return s, true
}
