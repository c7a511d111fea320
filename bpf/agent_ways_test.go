package bpf_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What an agent does beyond socket, connect, read.

// disconnect is connect(2) with AF_UNSPEC: the socket is as good as new.
func (s *state) disconnect(o order) (answer, error) {
	unspec := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(s.sockets[o.Socket]), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec))
	if errno != 0 {
		return answer{}, errno
	}
	return answer{}, nil
}

// connectTwice connects without blocking, again while that is going on, and again once it is done.
func (s *state) connectTwice(o order) (answer, error) {
	fd, err := s.make(o)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.SetNonblock(fd, true); err != nil {
		return answer{}, err
	}
	dst, _ := sockaddr(o.Dst)
	var a answer
	if err := unix.Connect(fd, dst); !errors.Is(err, unix.EINPROGRESS) {
		a.Wrong = append(a.Wrong, fmt.Sprintf("first connect: %v", err))
	}
	// On loopback the handshake may be over by now: then this one reports its success.
	if err := unix.Connect(fd, dst); err != nil && !errors.Is(err, unix.EALREADY) && !errors.Is(err, unix.EISCONN) {
		a.Wrong = append(a.Wrong, fmt.Sprintf("second connect: %v", err))
	}
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return a, err
	}
	defer func() { _ = unix.Close(poll) }()
	if err := unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLOUT}); err != nil {
		return a, err
	}
	if n, err := unix.EpollWait(poll, make([]unix.EpollEvent, 1), 2000); n != 1 {
		return a, fmt.Errorf("epoll: %d, %w", n, err)
	}
	_ = unix.Connect(fd, dst) // takes the success if the second one did not
	if err := unix.Connect(fd, dst); !errors.Is(err, unix.EISCONN) {
		a.Wrong = append(a.Wrong, fmt.Sprintf("connect when connected: %v", err))
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		return a, err
	}
	heard, err := hear(fd)
	heard.Wrong = a.Wrong
	return heard, err
}

// fastOpen makes N connections whose SYN carries data, in both ways there are.
func (s *state) fastOpen(o order) (answer, error) {
	var a answer
	for i := range o.N {
		o.Dst = o.Dsts[i%len(o.Dsts)]
		o.FastOpenConnect = i%2 == 0
		heard, err := answer{}, error(nil)
		if o.FastOpenConnect {
			heard, err = s.dial(o)
		} else {
			heard, err = s.sendFastOpen(o)
		}
		if want := plain(o.Dst); err != nil || heard.Said != want || heard.Peer != o.Dst {
			a.Wrong = append(a.Wrong, fmt.Sprintf("%d: %+v, %v instead of %s", i, heard, err, want))
			continue
		}
		a.N++
	}
	a.Wrong = first(a.Wrong)
	return a, nil
}

// putOff connects N sockets whose SYN leaves with their first data.
func (s *state) putOff(o order) (answer, error) {
	o.FastOpenConnect = true
	dst, _ := sockaddr(o.Dst)
	for i := range o.N {
		fd, err := s.make(o)
		if err != nil {
			return answer{N: i}, err
		}
		s.sockets[fmt.Sprint("put off ", i)] = fd
		if err := unix.Connect(fd, dst); err != nil {
			return answer{N: i}, err
		}
	}
	return answer{N: o.N}, nil
}

func (s *state) sayAll(o order) (answer, error) {
	for i := range o.N {
		_, _ = unix.Write(s.sockets[fmt.Sprint("put off ", i)], []byte("data"))
	}
	return answer{}, nil
}

// hearAll counts those that hear their destination, and tells what the others hear.
func (s *state) hearAll(o order) (answer, error) {
	var a answer
	for i := range o.N {
		name := fmt.Sprint("put off ", i)
		fd := s.sockets[name]
		delete(s.sockets, name)
		if heard, err := hear(fd); err != nil || heard.Said != o.Dst || heard.Peer != o.Dst {
			a.Wrong = append(a.Wrong, fmt.Sprintf("%+v, %v", heard, err))
		} else {
			a.N++
		}
		if err := unix.Close(fd); err != nil {
			return a, err
		}
	}
	a.Wrong = first(a.Wrong)
	return a, nil
}

// sourceRoute goes to Dst by way of the first of Dsts, which the packets are addressed to: by IP's loose source route (RFC 791), or by a
// segment routing header (RFC 8754), neither of which takes a privilege.
func (s *state) sourceRoute(o order) (answer, error) {
	fd, err := s.make(o)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	dst, ap := sockaddr(o.Dst)
	_, via := sockaddr(o.Dsts[0])
	if ap.Addr().Is4() {
		route := append([]byte{131, 7, 4}, via.Addr().AsSlice()...)
		err = unix.SetsockoptString(fd, unix.SOL_IP, unix.IP_OPTIONS, string(append(route, 0)))
	} else {
		route := slices.Concat([]byte{0, 4, 4, 1, 1, 0, 0, 0}, ap.Addr().AsSlice(), via.Addr().AsSlice())
		err = unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_RTHDR, string(route))
	}
	if err != nil {
		return answer{}, fmt.Errorf("the route: %s", err)
	}
	if o.Type == unix.SOCK_DGRAM {
		return answer{}, unix.Sendto(fd, []byte("datagram"), 0, dst)
	}
	if err := unix.Connect(fd, dst); err != nil {
		return answer{}, err
	}
	return hear(fd)
}

func (s *state) sendFastOpen(o order) (answer, error) {
	fd, err := s.make(o)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	dst, _ := sockaddr(o.Dst)
	if err := unix.Sendto(fd, []byte("data in the SYN"), unix.MSG_FASTOPEN, dst); err != nil {
		return answer{}, err
	}
	return hear(fd)
}

// first keeps an answer short: when all goes wrong, ten are enough to know.
func first(wrong []string) []string { return wrong[:min(len(wrong), 10)] }

// many makes N connections to random destinations, 256 at a time all open at once.
func (s *state) many(o order) (answer, error) {
	var (
		a     answer
		mu    sync.Mutex
		group sync.WaitGroup
	)
	for left := o.N; left > 0; left -= 256 {
		for range min(left, 256) {
			group.Go(func() {
				wrong := s.one(randomAddr())
				mu.Lock()
				defer mu.Unlock()
				if wrong != "" {
					a.Wrong = append(a.Wrong, wrong)
					return
				}
				a.N++
			})
		}
		group.Wait()
	}
	a.Wrong = first(a.Wrong)
	return a, nil
}

// sequential makes N connections one after the other.
func (s *state) sequential(o order) (answer, error) {
	var a answer
	for range o.N {
		if wrong := s.one(randomAddr()); wrong != "" {
			a.Wrong = append(a.Wrong, wrong)
			continue
		}
		a.N++
	}
	a.Wrong = first(a.Wrong)
	return a, nil
}

// one connects and hangs up by a reset, so that its port is free at once. It returns what was wrong.
func (s *state) one(dst string) string {
	fd, err := s.make(order{Dst: dst})
	if err != nil {
		return err.Error()
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return err.Error()
	}
	sa, _ := sockaddr(dst)
	if err := unix.Connect(fd, sa); err != nil {
		return fmt.Sprintf("%s: %v", dst, err)
	}
	a, err := hear(fd)
	if err != nil || a.Said != dst || a.Peer != dst {
		return fmt.Sprintf("%s: %+v, %v", dst, a, err)
	}
	return ""
}

// randomAddr is an address that no two connections are likely to share.
func randomAddr() string {
	v := rand.Uint32()
	port := []uint16{443, 8443}[v>>31]
	if v>>30&1 == 0 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(v >> 16), byte(v >> 8), byte(v)}), port).String()
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0xfd, 0x77, 13: byte(v >> 16), 14: byte(v >> 8), 15: byte(v)}), port).String()
}

// sendTo is one datagram on an unconnected socket.
func (s *state) sendTo(o order) (answer, error) {
	o.Type = unix.SOCK_DGRAM
	fd, err := s.make(o)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	dst, _ := sockaddr(o.Dst)
	return answer{}, unix.Sendto(fd, []byte("datagram"), 0, dst)
}

// rawName is an address as the kernel takes it.
func rawName(addr string) []byte {
	_, ap := sockaddr(addr)
	port := []byte{byte(ap.Port() >> 8), byte(ap.Port())}
	if ap.Addr().Is4() {
		return slices.Concat([]byte{unix.AF_INET, 0}, port, ap.Addr().AsSlice(), make([]byte, 8))
	}
	return slices.Concat([]byte{unix.AF_INET6, 0}, port, make([]byte, 4), ap.Addr().AsSlice(), make([]byte, 4))
}

// named is one datagram on a socket of Family to an address that is given as it is, by sendto(2), or by connect(2) and send(2).
func (s *state) named(o order) (answer, error) {
	fd, err := s.make(order{Family: o.Family, Type: unix.SOCK_DGRAM, Dst: o.Dst})
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	name, data := uintptr(unsafe.Pointer(&o.Bytes[0])), []byte("datagram")
	if o.Data == "connect" {
		if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), name, uintptr(len(o.Bytes))); errno != 0 {
			return answer{}, errno
		}
		return answer{}, unix.Send(fd, data, unix.MSG_NOSIGNAL)
	}
	_, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&data[0])), uintptr(len(data)), 0, name, uintptr(len(o.Bytes)))
	if errno != 0 {
		return answer{}, errno
	}
	return answer{}, nil
}

// cork begins a datagram to the first of Dsts and goes on with one to Dst.
func (s *state) cork(o order) (answer, error) {
	fd, err := s.make(order{Type: unix.SOCK_DGRAM, Dst: o.Dst})
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	first, _ := sockaddr(o.Dsts[0])
	if err := unix.Sendto(fd, []byte("one "), unix.MSG_MORE, first); err != nil {
		return answer{}, fmt.Errorf("the first: %s", err)
	}
	dst, _ := sockaddr(o.Dst)
	return answer{}, unix.Sendto(fd, []byte("two"), 0, dst)
}

// addressForm connects a socket of IPv6 to the first of Dsts, a v4-mapped address, makes it one of IPv4 (IPV6_ADDRFORM),
// and has it go to Dst.
func (s *state) addressForm(o order) (answer, error) {
	fd, err := s.make(order{Type: o.Type, Family: unix.AF_INET6, Dst: o.Dsts[0]})
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	first, _ := sockaddr(o.Dsts[0])
	if err := unix.Connect(fd, first); err != nil {
		return answer{}, fmt.Errorf("the first: %s", err)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_ADDRFORM, unix.AF_INET); err != nil {
		return answer{}, fmt.Errorf("the form: %s", err)
	}
	dst, _ := sockaddr(o.Dst)
	if o.Type == unix.SOCK_DGRAM {
		return answer{}, unix.Sendto(fd, []byte("datagram"), 0, dst)
	}
	unspec := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec)); errno != 0 {
		return answer{}, fmt.Errorf("disconnect: %s", errno)
	}
	if err := unix.Connect(fd, dst); err != nil {
		return answer{}, err
	}
	return hear(fd)
}

// sendMany is sendmmsg(2).
func (s *state) sendMany(o order) (answer, error) {
	o.Type = unix.SOCK_DGRAM
	fd, err := s.make(o)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	name, data := rawName(o.Dst), []byte("datagram")
	vec := unix.Iovec{Base: &data[0], Len: uint64(len(data))}
	type message struct {
		unix.Msghdr
		n   uint32
		pad uint32
	}
	messages := make([]message, 2)
	for i := range messages {
		messages[i].Msghdr = unix.Msghdr{Name: &name[0], Namelen: uint32(len(name)), Iov: &vec, Iovlen: 1}
	}
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages[0])), uintptr(len(messages)), 0, 0, 0)
	if errno != 0 {
		return answer{}, errno
	}
	return answer{N: int(n)}, nil
}

// sendSegments is one send that the kernel cuts into datagrams (UDP_SEGMENT).
func (s *state) sendSegments(o order) (answer, error) {
	return s.sendControl(o, func(fd int) ([]byte, error) {
		return nil, unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, 500)
	})
}

// sendPktInfo names the source address in a control message.
func (s *state) sendPktInfo(o order) (answer, error) {
	return s.sendControl(o, func(int) ([]byte, error) {
		_, ap := sockaddr(o.Source)
		if ap.Addr().Is4() {
			return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: ap.Addr().As4()}), nil
		}
		return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: ap.Addr().As16()}), nil
	})
}

func (s *state) sendControl(o order, prepare func(fd int) ([]byte, error)) (answer, error) {
	fd, err := s.make(order{Type: unix.SOCK_DGRAM, Dst: o.Dst})
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	control, err := prepare(fd)
	if err != nil {
		return answer{}, fmt.Errorf("prepare: %s", err)
	}
	dst, _ := sockaddr(o.Dst)
	return answer{}, unix.Sendmsg(fd, make([]byte, 1500), control, dst, 0)
}

// unshare goes to a network namespace of the agent's own and tells its path.
func (s *state) unshare(order) (answer, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return answer{}, err
	}
	return answer{Said: fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())}, nil
}

// bench makes N connections and tells how long connect(2) alone took, in the median.
func (s *state) bench(o order) (answer, error) {
	dst, _ := sockaddr(o.Dst)
	took := make([]time.Duration, 0, o.N)
	for range o.N {
		fd, err := s.make(o)
		if err != nil {
			return answer{}, err
		}
		err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		begin := time.Now()
		if err == nil {
			err = unix.Connect(fd, dst)
		}
		took = append(took, time.Since(begin))
		if closed := unix.Close(fd); err != nil || closed != nil {
			return answer{}, errors.Join(err, closed)
		}
	}
	slices.Sort(took)
	return answer{N: int(took[o.N/2].Nanoseconds())}, nil
}

// benchDatagrams is what one sendto(2) of a small datagram takes, in ns.
func (s *state) benchDatagrams(o order) (answer, error) {
	o.Type = unix.SOCK_DGRAM
	fd, err := s.make(o)
	if err != nil {
		return answer{}, err
	}
	dst, _ := sockaddr(o.Dst)
	begin := time.Now()
	for range o.N {
		if err = unix.Sendto(fd, []byte("small"), 0, dst); err != nil {
			break
		}
	}
	took := time.Since(begin)
	return answer{N: int(took.Nanoseconds()) / o.N}, errors.Join(err, unix.Close(fd))
}
