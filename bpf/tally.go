package bpf

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// tally tells the programs how many flows wait, in memory that it shares with them. The zero value counts nothing.
type tally struct {
	mu     sync.Mutex
	memory []byte
	shared *redirectFlowTally // in memory; nil before open and after close
}

func (t *tally) open(m *ebpf.Map) error {
	memory, err := unix.Mmap(m.FD(), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the tally of flows: %w", err)
	}
	t.memory, t.shared = memory, (*redirectFlowTally)(unsafe.Pointer(&memory[0]))
	return nil
}

// close gives the memory back, which would keep the map in the kernel.
func (t *tally) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shared == nil {
		return nil
	}
	t.shared = nil
	if err := unix.Munmap(t.memory); err != nil {
		return fmt.Errorf("unmap the tally of flows: %w", err)
	}
	return nil
}

// took notes that this process has deleted a flow.
func (t *tally) took() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shared != nil {
		atomic.AddUint64(&t.shared.Taken, 1)
	}
}

func (t *tally) read() redirectFlowTally {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shared == nil {
		return redirectFlowTally{}
	}
	return redirectFlowTally{
		Published: atomic.LoadUint64(&t.shared.Published),
		Closed:    atomic.LoadUint64(&t.shared.Closed),
		Taken:     atomic.LoadUint64(&t.shared.Taken),
	}
}

// correct puts right what a daemon left that ended between deleting a flow and noting it. The map had waiting flows in it
// after before was read; if any came or went since then, that is left to the next sweep.
func (t *tally) correct(before redirectFlowTally, waiting uint64) {
	if t.read() != before {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shared != nil {
		atomic.CompareAndSwapUint64(&t.shared.Taken, before.Taken, before.Published-before.Closed-waiting)
	}
}
