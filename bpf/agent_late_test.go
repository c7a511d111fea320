package bpf_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Where frames of Ethernet, IPv4 without options and UDP have the destination's port, and where UDP begins.
const (
	udpAt  = 14 + 20
	portAt = udpAt + 2
)

// Of struct tpacket2_hdr: the length and the status, and where the frame is.
const (
	ringStatus, ringLength, ringData = 0, 4, 32
	statusSend                       = 1 // TP_STATUS_SEND_REQUEST
	frameSize                        = 2048
)

// ringFrame sends the frame in Bytes N times from memory that it shares with the kernel (PACKET_TX_RING), while another thread
// keeps changing the port there, from that of Dst to that of Dsts[0] and back. With a Socket it uses the ring of that name, or makes it and
// sends nothing.
func (s *state) ringFrame(o order) (answer, error) {
	o.Type = unix.SOCK_RAW
	fd, kept, done, err := s.packetSocket(o)
	if err != nil {
		return answer{}, err
	}
	defer done()
	if !kept {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
			return answer{}, err
		}
		size := unix.TpacketReq{Block_size: 2 * frameSize, Block_nr: 1, Frame_size: frameSize, Frame_nr: 2}
		if err := unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, unix.PACKET_TX_RING, &size); err != nil {
			return answer{}, err
		}
		if o.Socket != "" {
			return answer{}, nil
		}
	}
	ring, err := unix.Mmap(fd, 0, 2*frameSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return answer{}, fmt.Errorf("map the ring: %w", err)
	}
	defer func() { _ = unix.Munmap(ring) }()
	for at := range 2 {
		copy(ring[at*frameSize+ringData:], o.Bytes)
		*(*uint32)(unsafe.Pointer(&ring[at*frameSize+ringLength])) = uint32(len(o.Bytes))
	}
	_, bound := sockaddr(o.Dst)
	_, free := sockaddr(o.Dsts[0])
	var stop atomic.Bool
	var group sync.WaitGroup
	defer group.Wait()
	defer stop.Store(true)
	group.Go(func() {
		for !stop.Load() {
			for _, port := range []uint16{bound.Port(), free.Port()} {
				for at := range 2 {
					binary.BigEndian.PutUint16(ring[at*frameSize+ringData+portAt:], port)
				}
			}
		}
	})
	to := &unix.SockaddrLinklayer{Protocol: htons(uint16(o.Proto)), Ifindex: o.Index}
	var a answer
	for i := range o.N {
		status := (*uint32)(unsafe.Pointer(&ring[i%2*frameSize+ringStatus]))
		for atomic.LoadUint32(status) != 0 { // the one before the last is under way
			_ = unix.Sendto(fd, nil, 0, to)
		}
		atomic.StoreUint32(status, statusSend)
		err := unix.Sendto(fd, nil, 0, to)
		if err == nil {
			a.N++
		} else if !errors.Is(err, unix.ENOBUFS) {
			return a, err
		}
	}
	return a, nil
}

// checksumIsPort has UDP's checksum, over all that begins with UDP's header, come out as a port.
func checksumIsPort(frame []byte, port uint16) {
	last := frame[len(frame)-2:]
	clear(last)
	rest := ^sum(frame[udpAt:])
	// rest + x is to be the complement of the port, in ones' complement.
	x := uint32(^port) + uint32(^rest)
	binary.BigEndian.PutUint16(last, uint16(x&0xffff+x>>16))
}
