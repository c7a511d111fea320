package guard_test

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/intercept/guard"
	"github.com/sluice-proxy/sluice/intercept/netns"
)

// tally is programs that are on no link: it only knows on which they ought to be.
type tally struct {
	gate  sync.Mutex // held to let the guard wait
	mu    sync.Mutex
	links map[int]bool
	fail  int // the link that they cannot be put on the next time
}

func (p *tally) GuardLink(_ uint64, index int, _ uint16, _ int) error {
	p.gate.Lock()
	defer p.gate.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail == index {
		p.fail = 0
		return unix.ENOSPC
	}
	p.links[index] = true
	return nil
}

func (p *tally) guards(index int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.links[index]
}

func (*tally) SweepGuard(uint64) error           { return nil }
func (*tally) Unguard(uint64) error              { return nil }
func (*tally) GuardProgram(uint16) *ebpf.Program { return nil }

// TestTooMuchToBeToldOf has more happen on links than the kernel keeps for us, again and again: links that were made
// meanwhile are guarded, later ones too, though it did not work at once, and nothing adds up.
func TestTooMuchToBeToldOf(t *testing.T) {
	kerneltest.Require(t)
	ns, err := netns.Open(kerneltest.NetNS(t))
	must(t, err)
	t.Cleanup(func() { _ = ns.Close() })
	p := &tally{links: make(map[int]bool)}
	links, err := guard.New(guard.Options{Programs: p, Backend: guard.TCX}).Protect(ns)
	must(t, err)
	made := func(name string) (index int) {
		t.Helper()
		must(t, ns.Do(func() error {
			if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "peer-" + name}); err != nil {
				return err
			}
			link, err := netlink.LinkByName(name)
			if err == nil {
				index = link.Attrs().Index
			}
			return err
		}))
		return index
	}
	before := descriptors(t)
	for round := range 5 {
		p.gate.Lock()
		must(t, ns.Do(func() error {
			lo, err := netlink.LinkByName("lo")
			for i := 0; i < 1000 && err == nil; i++ {
				err = netlink.LinkSetMTU(lo, 1500+i)
			}
			return err
		}))
		missed := made(fmt.Sprint("missed", round))
		if round == 4 {
			p.mu.Lock()
			p.fail = missed
			p.mu.Unlock()
		}
		p.gate.Unlock()
		eventually(t, "what was missed is guarded", func() bool { return p.guards(missed) })
		later := made(fmt.Sprint("later", round))
		eventually(t, "what came later is guarded", func() bool { return p.guards(later) })
		eventually(t, "no descriptor more than before", func() bool { return descriptors(t) <= before })
	}
	must(t, links.Close())
}

// descriptors is how many this process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return len(entries)
}
