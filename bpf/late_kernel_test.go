package bpf_test

import (
	"fmt"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// withoutChecksums has a link leave nothing to who receives: the kernel writes checksums itself, last of all.
func withoutChecksums(t testing.TB, netns, link string) {
	t.Helper()
	must(t, kerneltest.In(netns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		off := struct{ command, value uint32 }{unix.ETHTOOL_STXCSUM, 0}
		var request struct {
			name [unix.IFNAMSIZ]byte
			data uintptr
			_    [16]byte
		}
		copy(request.name[:], link)
		request.data = uintptr(unsafe.Pointer(&off))
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return errno
		}
		return nil
	}))
}

// TestFramesThatChange are other ones when they arrive than when they were made.
func TestFramesThatChange(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	must(t, w.Detach(w.cgroup))
	for _, o := range []order{{Do: "frame", Socket: "sums", Segment: true}, {Do: "ring", Socket: "ring"}} { // older than the attach
		if got := w.agent.do(o); got.Error != "" {
			t.Fatalf("%+v", got)
		}
	}
	must(t, w.Attach(w.cgroup))
	w.guardAll(t)
	withoutChecksums(t, w.Agent, w.Link)
	eye, link := newWitness(t, w.Server), index(t, w.Agent, w.Link)
	const free = 9
	for name, socket := range map[string]string{"checksum_written_over_the_port": "", "checksum_written_over_the_port_by_an_older_socket": "sums"} {
		t.Run(name, func(t *testing.T) {
			frame := ether(unix.ETH_P_IP, ip4(unix.IPPROTO_UDP, 0, nil, udp(free, mark("sum")+"xx")))
			checksumIsPort(frame, 443)
			// struct virtio_net_hdr: a checksum is needed, from UDP's header on, to be written over its destination port.
			header := []byte{1, 0, 0, 0, 0, 0, udpAt, 0, 2, 0}
			before := w.count(t, "dropped_link_unreadable")
			got := w.agent.do(order{Do: "frame", Socket: socket, Segment: true, Index: link, Proto: unix.ETH_P_IP, Bytes: append(header, frame...)})
			w.settled(t, eye, link)
			if got.Error != "ENOBUFS" || eye.count("sum") != 0 || w.count(t, "dropped_link_unreadable") != before+1 {
				t.Errorf("%+v, seen %d times", got, eye.count("sum"))
			}
			header[0] = 0 // it is made already
			got = w.agent.do(order{Do: "frame", Socket: socket, Segment: true, Index: link, Proto: unix.ETH_P_IP, Bytes: append(header, frame...)})
			w.settled(t, eye, link)
			if got.Error != "" || eye.count("sum") != 1 {
				t.Errorf("%+v, seen %d times", got, eye.count("sum"))
			}
			eye.forget()
			w.untouched(t)
		})
	}
	for name, socket := range map[string]string{"port_changed_in_shared_memory": "", "port_changed_in_shared_memory_of_an_older_socket": "ring"} {
		t.Run(name, func(t *testing.T) {
			frame := ether(unix.ETH_P_IP, ip4(unix.IPPROTO_UDP, 0, nil, udp(free, mark("shared"))))
			got := w.agent.do(order{Do: "ring", Socket: socket, Index: link, Proto: unix.ETH_P_IP, Bytes: frame, N: 20_000, Dst: origin4, Dsts: []string{fmt.Sprint("10.77.0.1:", free)}})
			w.settled(t, eye, link)
			if got.Error != "" || got.N == 0 || eye.count("shared") == 0 {
				t.Errorf("%+v, seen %d times", got, eye.count("shared"))
			}
			eye.forget()
			w.untouched(t)
		})
	}
}
