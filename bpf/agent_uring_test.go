package bpf_test

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers of include/uapi/linux/io_uring.h.
const (
	opConnect, opSendmsg, opSocket = 16, 9, 45
	sqeAsync                       = 1 << 4 // IOSQE_ASYNC: by a worker thread of the kernel's
	setupSQPoll                    = 1 << 1 // IORING_SETUP_SQPOLL: submitted by a thread of the kernel's
	enterGetEvents                 = 1 << 0
	enterWakeup                    = 1 << 1
	offSQRing, offCQRing, offSQEs  = 0, 0x8000000, 0x10000000
	ringEntries                    = 4
)

// ringParams is struct io_uring_params.
type ringParams struct {
	sqEntries, cqEntries, flags, threadCPU, threadIdle, features, wqFD uint32
	_                                                                  [3]uint32
	sq                                                                 struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32
		_                                                   uint64
	}
	cq struct {
		head, tail, mask, entries, overflow, cqes, flags, _ uint32
		_                                                   uint64
	}
}

// sqe is struct io_uring_sqe.
type sqe struct {
	opcode, flags uint8
	ioprio        uint16
	fd            int32
	off, addr     uint64
	len, rw       uint32
	data          uint64
	_             [3]uint64
}

// ring is an io_uring, used for one request at a time.
type ring struct {
	fd         int
	p          ringParams
	sq, cq, es []byte
}

func newRing(flags uint32) (*ring, error) {
	r := &ring{p: ringParams{flags: flags, threadIdle: 1000}}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, ringEntries, uintptr(unsafe.Pointer(&r.p)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("io_uring_setup: %w", errno)
	}
	r.fd = int(fd)
	for _, m := range []struct {
		into *[]byte
		off  int64
		size int
	}{
		{&r.sq, offSQRing, int(r.p.sq.array + r.p.sqEntries*4)},
		{&r.cq, offCQRing, int(r.p.cq.cqes + r.p.cqEntries*16)},
		{&r.es, offSQEs, int(r.p.sqEntries) * int(unsafe.Sizeof(sqe{}))},
	} {
		var err error
		if *m.into, err = unix.Mmap(r.fd, m.off, m.size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
			r.close()
			return nil, err
		}
	}
	return r, nil
}

func (r *ring) close() {
	for _, m := range [][]byte{r.sq, r.cq, r.es} {
		if m != nil {
			_ = unix.Munmap(m)
		}
	}
	_ = unix.Close(r.fd)
}

func word(m []byte, at uint32) *uint32 { return (*uint32)(unsafe.Pointer(&m[at])) }

// do has the kernel do one thing, and returns its result. The syscalls between are barriers enough.
func (r *ring) do(e sqe) (int, error) {
	tail := *word(r.sq, r.p.sq.tail)
	slot := tail & *word(r.sq, r.p.sq.mask)
	*(*sqe)(unsafe.Pointer(&r.es[uintptr(slot)*unsafe.Sizeof(e)])) = e
	*word(r.sq, r.p.sq.array+4*slot) = slot
	*word(r.sq, r.p.sq.tail) = tail + 1
	flags := uintptr(enterGetEvents)
	if r.p.flags&setupSQPoll != 0 {
		flags |= enterWakeup
	}
	if _, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), 1, 1, flags, 0, 0); errno != 0 {
		return 0, fmt.Errorf("io_uring_enter: %w", errno)
	}
	head := word(r.cq, r.p.cq.head)
	at := r.p.cq.cqes + 16*(*head&*word(r.cq, r.p.cq.mask))
	res := int32(*word(r.cq, at+8))
	*head++
	if res < 0 {
		return 0, unix.Errno(-res)
	}
	return int(res), nil
}

// uring opens a socket and connects it, or sends a datagram if Type says so, without a system call for either. N are flags of
// the ring's, Data is "async" for a worker thread.
func (s *state) uring(o order) (answer, error) {
	r, err := newRing(uint32(o.N))
	if err != nil {
		return answer{}, err
	}
	defer r.close()
	var flags uint8
	if o.Data == "async" {
		flags = sqeAsync
	}
	if o.Type == 0 {
		o.Type = unix.SOCK_STREAM
	}
	name := rawName(o.Dst)
	fd, err := r.do(sqe{opcode: opSocket, flags: flags, fd: int32(name[0]), off: uint64(o.Type), len: uint32(o.Proto)})
	if err != nil {
		return answer{}, fmt.Errorf("socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	e := sqe{opcode: opConnect, flags: flags, fd: int32(fd), addr: uint64(uintptr(unsafe.Pointer(&name[0]))), off: uint64(len(name))}
	data := []byte("datagram")
	vec := unix.Iovec{Base: &data[0], Len: uint64(len(data))}
	message := unix.Msghdr{Name: &name[0], Namelen: uint32(len(name)), Iov: &vec, Iovlen: 1}
	if o.Type == unix.SOCK_DGRAM {
		e = sqe{opcode: opSendmsg, flags: flags, fd: int32(fd), addr: uint64(uintptr(unsafe.Pointer(&message))), len: 1}
	}
	_, err = r.do(e)
	runtime.KeepAlive(&message)
	runtime.KeepAlive(name)
	if err != nil {
		return answer{}, err
	}
	if o.Type == unix.SOCK_DGRAM {
		return answer{}, nil
	}
	return hear(fd)
}
