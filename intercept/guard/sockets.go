package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

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
	srcAddrAt    = 4
	dstAddrAt    = 20
	cookieAt     = 40
	inodeAt      = 4 + sockIDSize + 16 // in the message
	attrHeader   = 4
	attrTypeMask = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
)

// TCP states, which connected sockets of UDP have as well (include/net/tcp_states.h).
const (
	stateEstablished = 1
	stateListen      = 10
)

// stateNames are what ss(8) calls the states in which a socket can still send or receive.
var stateNames = map[uint8]string{1: "ESTAB", 2: "SYN-SENT", 4: "FIN-WAIT-1", 5: "FIN-WAIT-2", 8: "CLOSE-WAIT"}

// tcpStates are those, and of the sockets that listen.
const tcpStates = 1<<1 | 1<<2 | 1<<4 | 1<<5 | 1<<8 | 1<<stateListen

// protocolNames are of the protocols that sock_diag can be asked for, and that have ports.
var protocolNames = map[uint8]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_UDPLITE: "udplite"}

// Connection is one to a bound port that has not come through sluice, because it is older than
// the attach.
type Connection struct {
	Protocol      string         `json:"protocol"` // tcp, udp or udplite
	Local, Remote netip.AddrPort `json:"-"`
	State         string         `json:"state"` // as ss(8) says it
	Cookie        uint64         `json:"-"`     // the kernel's id of the socket
	PID           int            `json:"-"`     // of a process that holds it; 0: not known
	Command       string         `json:"-"`     // that process's name

	protocol uint8
	family   uint8
	state    uint8
	id       [sockIDSize]byte
	inode    uint32
	cgroup   uint64 // 0: the kernel did not say (before Linux 5.9)
}

// Older lists the connections of the calling thread's network namespace to one of the ports, loopback
// excepted, whose socket is of a wanted cgroup or held by one of the processes. What answers the peers of a
// server is not among them. It needs Linux 5.9.
func Older(wanted func(cgroupID uint64) bool, holders Holders, ports []uint16) ([]Connection, error) {
	var older []Connection
	for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE} {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			found, err := list(protocol, family)
			if err != nil {
				if protocol == unix.IPPROTO_UDPLITE && unsupported(err) {
					continue // newer kernels have none
				}
				return nil, fmt.Errorf("list sockets: %w", err)
			}
			older = append(older, past(found, wanted, holders, ports)...)
		}
	}
	return older, nil
}

// firstClientPort is the lowest that a server's clients come from. Who is connected to a lower one and listens on its own port
// only looks like a server.
const firstClientPort = 1024

// past are the sockets that got past the redirect. One that was redirected is connected to a loopback address.
func past(found []Connection, wanted func(uint64) bool, holders Holders, ports []uint16) []Connection {
	served := make(map[uint16]bool)
	for _, c := range found {
		if c.state == stateListen {
			served[c.Local.Port()] = true
		}
	}
	var older []Connection
	for _, c := range found {
		if c.state == stateListen || c.Remote.Addr().IsLoopback() || !slices.Contains(ports, c.Remote.Port()) {
			continue
		}
		if served[c.Local.Port()] && c.Remote.Port() >= firstClientPort {
			continue
		}
		holder, held := holders[c.inode]
		if !held && (c.cgroup == 0 || !wanted(c.cgroup)) {
			continue
		}
		c.PID, c.Command = holder.pid, holder.command
		older = append(older, c)
	}
	return older
}

// Destroy closes a connection of the calling thread's namespace: its process gets ECONNABORTED, and connects
// anew. One that is gone is no error. It needs CAP_NET_ADMIN and CONFIG_INET_DIAG_DESTROY.
func (c Connection) Destroy() error {
	req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	req.AddData(&request{family: c.family, protocol: c.protocol, id: c.id})
	if _, err := req.Execute(unix.NETLINK_INET_DIAG, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("destroy the connection to %s: %w", c.Remote, err)
	}
	return nil
}

// Cookies are the kernel's ids of all sockets of the calling thread's namespace that can be connected.
func Cookies() (map[uint64]bool, error) {
	all := make(map[uint64]bool)
	for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE} {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			found, err := list(protocol, family)
			if err != nil && (protocol != unix.IPPROTO_UDPLITE || !unsupported(err)) {
				return nil, fmt.Errorf("list sockets: %w", err)
			}
			for _, c := range found {
				all[c.Cookie] = true
			}
		}
	}
	return all, nil
}

// Holders are processes by the inode number of a socket that they hold.
type Holders map[uint32]holder

type holder struct {
	pid     int
	command string
}

// Of so many descriptors of one process, and of all, HeldBy looks what they are: others wait for that, and what processes share costs an
// agent nothing.
const maxOfOne, maxOfAll = 10_000, 100_000

// HeldBy looks which sockets processes hold, by the links in /proc/PID/fd, as far as there are not too many. A process that ends
// meanwhile holds none.
func HeldBy(pids []int) Holders {
	held, left := make(Holders), maxOfAll
	for _, pid := range pids {
		dir := "/proc/" + strconv.Itoa(pid)
		if left <= 0 {
			break
		}
		names := descriptors(dir, min(left, maxOfOne))
		left -= len(names)
		command, _ := os.ReadFile(dir + "/comm")
		for _, name := range names {
			to, err := os.Readlink(dir + "/fd/" + name)
			number, isSocket := strings.CutPrefix(strings.TrimSuffix(to, "]"), "socket:[")
			if err != nil || !isSocket {
				continue
			}
			if inode, err := strconv.ParseUint(number, 10, 32); err == nil {
				held[uint32(inode)] = holder{pid: pid, command: strings.TrimSpace(string(command))}
			}
		}
	}
	return held
}

// descriptors are the first ones that a process has open.
func descriptors(dir string, most int) []string {
	f, err := os.Open(dir + "/fd")
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(most)
	return names
}

// request is struct inet_diag_req_v2.
type request struct {
	family, protocol uint8
	states           uint32
	id               [sockIDSize]byte
}

func (r *request) Len() int { return requestSize }

func (r *request) Serialize() []byte {
	out := make([]byte, 0, requestSize)
	out = append(out, r.family, r.protocol, 0, 0)
	out = binary.NativeEndian.AppendUint32(out, r.states)
	return append(out, r.id[:]...)
}

func list(protocol, family uint8) ([]Connection, error) {
	states := uint32(tcpStates)
	if protocol != unix.IPPROTO_TCP {
		states = 1 << stateEstablished // connected
	}
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.AddData(&request{family: family, protocol: protocol, states: states})
	messages, err := req.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, err
	}
	var found []Connection
	for _, m := range messages {
		if c, ok := parse(m); ok {
			c.protocol, c.Protocol = protocol, protocolNames[protocol]
			found = append(found, c)
		}
	}
	return found, nil
}

// parse reads struct inet_diag_msg and the attribute that tells the cgroup.
func parse(m []byte) (Connection, bool) {
	if len(m) < messageSize {
		return Connection{}, false
	}
	c := Connection{family: m[0], state: m[1], State: stateNames[m[1]], id: [sockIDSize]byte(m[4 : 4+sockIDSize])}
	var src, dst netip.Addr
	switch c.family {
	case unix.AF_INET:
		src, dst = netip.AddrFrom4([4]byte(c.id[srcAddrAt:])), netip.AddrFrom4([4]byte(c.id[dstAddrAt:]))
	case unix.AF_INET6:
		src, dst = netip.AddrFrom16([16]byte(c.id[srcAddrAt:])).Unmap(), netip.AddrFrom16([16]byte(c.id[dstAddrAt:])).Unmap()
	default:
		return Connection{}, false
	}
	c.Local = netip.AddrPortFrom(src, binary.BigEndian.Uint16(c.id[:]))
	c.Remote = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(c.id[dstPortAt:]))
	// Two numbers of 32 bits, the lower first (net/core/sock_diag.c).
	c.Cookie = uint64(binary.NativeEndian.Uint32(c.id[cookieAt:])) | uint64(binary.NativeEndian.Uint32(c.id[cookieAt+4:]))<<32
	c.inode = binary.NativeEndian.Uint32(m[inodeAt:])
	for rest := m[messageSize:]; len(rest) >= attrHeader; {
		size := int(binary.NativeEndian.Uint16(rest))
		if size < attrHeader || size > len(rest) {
			break
		}
		kind := binary.NativeEndian.Uint16(rest[2:]) & attrTypeMask
		if kind == netlink.INET_DIAG_CGROUP_ID && size >= attrHeader+8 {
			c.cgroup = binary.NativeEndian.Uint64(rest[attrHeader:])
		}
		rest = rest[min((size+3)&^3, len(rest)):]
	}
	return c, true
}
