package splice

import (
	"sync"

	"golang.org/x/sys/unix"
)

// blockSize is that of the memory through which bytes go where there is no pipe.
const blockSize = 64 << 10

// Pipes are what relays pass bytes through: at most so many at a time, of which those that
// are not needed wait for the next relay. It may be used concurrently.
type Pipes struct {
	limit  int
	blocks sync.Pool // *[blockSize]byte

	mu   sync.Mutex
	idle []*pipe // last in, first out: its pages are in the processor's cache
	made int
}

type pipe struct{ r, w int }

// NewPipes makes no pipe yet. There will be limit of them at the most, two descriptors each.
func NewPipes(limit int) *Pipes { return &Pipes{limit: limit} }

// get is nil if there is none to be had.
func (p *Pipes) get() *pipe {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		got := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return got
	}
	if p.made >= p.limit {
		p.mu.Unlock()
		return nil
	}
	p.made++
	p.mu.Unlock()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		p.mu.Lock()
		p.made--
		p.mu.Unlock()
		return nil
	}
	// A user may have no more than so many pages in pipes; the usual 64 KiB do as well.
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, most)
	return &pipe{r: fds[0], w: fds[1]}
}

// put takes an empty pipe back.
func (p *Pipes) put(got *pipe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, got)
}

// discard closes a pipe that has bytes in it.
func (p *Pipes) discard(got *pipe) {
	_ = unix.Close(got.r)
	_ = unix.Close(got.w)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made--
}

// Close closes the pipes that wait. No relay may be under way.
func (p *Pipes) Close() {
	for _, idle := range p.idle {
		p.discard(idle)
	}
	p.idle = nil
}
