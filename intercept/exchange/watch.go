package exchange

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// watcher notices clients that hang up while their connection's goroutine waits
// for the upstream: one epoll instance for all of them, itself waited for by the
// runtime's poller, so that it costs no thread, no goroutine a client and no
// system call a request. A FIN counts as having hung up, as it does for net/http
// and nginx; only an upgraded connection may be half closed.
type watcher struct {
	file *os.File // the epoll instance
	raw  syscall.RawConn

	mu      sync.Mutex
	clients map[uint64]*client
	next    uint64
}

func newWatcher() (*watcher, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch clients: epoll_create1: %w", err)
	}
	// os.NewFile puts only a non-blocking descriptor under the runtime's poller.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch clients: %w", err)
	}
	f := os.NewFile(uintptr(fd), "epoll")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("watch clients: %w", err)
	}
	return &watcher{file: f, raw: raw, clients: make(map[uint64]*client)}, nil
}

// add watches a client until remove. Events carry an id that is never used
// again, so that a descriptor's next owner cannot be taken for its last.
func (w *watcher) add(cl *client) error {
	w.mu.Lock()
	w.next++
	id := w.next
	w.clients[id] = cl
	w.mu.Unlock()
	cl.watchID = id
	event := unix.EpollEvent{
		Events: unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLET&0xffffffff,
		Fd:     int32(uint32(id)),
		Pad:    int32(uint32(id >> 32)),
	}
	err := w.control(unix.EPOLL_CTL_ADD, cl.raw, &event)
	if err != nil {
		w.forget(id)
		cl.watchID = 0
	}
	return err
}

// remove must come before the client's connection is closed.
func (w *watcher) remove(cl *client) {
	if cl.watchID == 0 {
		return
	}
	w.forget(cl.watchID)
	cl.watchID = 0
	// Of a connection that is closed already the kernel has forgotten by itself.
	_ = w.control(unix.EPOLL_CTL_DEL, cl.raw, nil)
}

func (w *watcher) forget(id uint64) {
	w.mu.Lock()
	delete(w.clients, id)
	w.mu.Unlock()
}

func (w *watcher) control(op int, c *net.TCPConn, event *unix.EpollEvent) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		err := w.raw.Control(func(epoll uintptr) {
			inner = unix.EpollCtl(int(epoll), op, int(fd), event)
		})
		inner = errors.Join(inner, err)
	})
	return errors.Join(err, inner)
}

// run hands out events until close.
func (w *watcher) run() {
	var events [64]unix.EpollEvent
	for {
		n := 0
		err := w.raw.Read(func(fd uintptr) bool {
			var err error
			n, err = unix.EpollWait(int(fd), events[:], 0)
			return n > 0 || (err != nil && err != unix.EINTR)
		})
		if err != nil || n < 0 {
			return
		}
		for _, e := range events[:n] {
			id := uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32
			w.mu.Lock()
			cl := w.clients[id]
			w.mu.Unlock()
			if cl != nil {
				cl.hungUp()
			}
		}
	}
}

func (w *watcher) close() { w.file.Close() }
