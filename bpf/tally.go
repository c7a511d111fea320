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

// tally tells the programs how many flows wait, in memory that it shares with them: those of each share, and all of them in the last
// place. The zero value counts nothing.
type tally struct {
	mu     sync.Mutex
	memory []byte
	places []redirectFlowTally // in memory; empty before open and after close
}

func (t *tally) open(m *ebpf.Map) error {
	page, n := os.Getpagesize(), int(m.MaxEntries())
	size := (n*int(m.ValueSize()) + page - 1) / page * page
	memory, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the tally of flows: %w", err)
	}
	t.memory, t.places = memory, unsafe.Slice((*redirectFlowTally)(unsafe.Pointer(&memory[0])), n)
	return nil
}

// close gives the memory back, which would keep the map in the kernel.
func (t *tally) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.places == nil {
		return nil
	}
	t.places = nil
	if err := unix.Munmap(t.memory); err != nil {
		return fmt.Errorf("unmap the tally of flows: %w", err)
	}
	return nil
}

// took notes that this process has deleted a flow of a share.
func (t *tally) took(share uint16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if all := len(t.places) - 1; int(share) < all {
		atomic.AddUint64(&t.places[all].Taken, 1)
		atomic.AddUint64(&t.places[share].Taken, 1)
	}
}

// read is what there is in each place; nothing if it is not open.
func (t *tally) read() []redirectFlowTally {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := make([]redirectFlowTally, len(t.places))
	for i := range now {
		now[i] = t.place(i)
	}
	return now
}

// place is what was counted in one of them.
func (t *tally) place(i int) redirectFlowTally {
	p := &t.places[i]
	return redirectFlowTally{
		Published: atomic.LoadUint64(&p.Published), Closed: atomic.LoadUint64(&p.Closed),
		Taken: atomic.LoadUint64(&p.Taken), Refused: atomic.LoadUint64(&p.Refused),
	}
}

// begin has a share that was another target's count the refusals of the next one.
func (t *tally) begin(share uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if int(share) < len(t.places) {
		atomic.StoreUint64(&t.places[share].Refused, 0)
	}
}

// reserve lets each share have so many flows, whatever there is in others.
func (t *tally) reserve(least uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if all := len(t.places) - 1; all >= 0 {
		atomic.StoreUint64(&t.places[all].Least, least)
	}
}

// correct puts right what a daemon left that ended between deleting a flow and noting it. The map had waiting flows of each
// place in it after before was read; if any came or went since then, that is left to the next sweep.
func (t *tally) correct(before []redirectFlowTally, waiting []int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := len(t.places) - 1
	if all < 0 || t.place(all) != before[all] {
		return
	}
	for i, was := range before {
		now := t.place(i)
		if now.Refused = was.Refused; now == was {
			atomic.CompareAndSwapUint64(&t.places[i].Taken, was.Taken, was.Published-was.Closed-uint64(waiting[i]))
		}
	}
}
