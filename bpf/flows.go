package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Flow is one redirected connection as its process meant it.
type Flow struct {
	Dst      netip.AddrPort // where connect was called for; never v4-mapped
	CgroupID uint64         // of the task that called connect
	PID      uint32
	Cookie   uint64        // of the network namespace
	Age      time.Duration // since connect was called
}

// taking is what a look-up points to: it escapes, and so is kept for the next one.
type taking struct {
	key   redirectFlowKey
	value redirectFlow
}

// Take returns and deletes the flow of a connection that a listener accepted.
// peer and local are the connection's addresses as the listener sees them. False:
// nobody was redirected here, and the connection must be closed. Taking is
// atomic: of two callers one gets the flow (Linux 5.14).
func (r *Redirect) Take(cookie uint64, peer, local netip.AddrPort) (Flow, bool, error) {
	if !peer.IsValid() {
		return Flow{}, false, nil
	}
	t, _ := r.takings.Get().(*taking)
	if t == nil {
		t = new(taking)
	}
	defer r.takings.Put(t)
	t.key = flowKey(cookie, peer, local)
	value := &t.value
	if err := r.objs.Flows.LookupAndDelete(&t.key, value); err != nil {
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return Flow{}, false, nil
		}
		return Flow{}, false, fmt.Errorf("take flow: %w", err)
	}
	r.tally.took()
	return Flow{
		Dst:      netip.AddrPortFrom(address(value.Dst.Word), value.DstPort),
		CgroupID: value.Cgroup,
		PID:      value.Pid,
		Cookie:   cookie,
		Age:      monotonic() - time.Duration(value.Time),
	}, true, nil
}

// Sweep deletes flows that nobody took within olderThan: connections that ended
// between connect and accept without the kernel telling.
func (r *Redirect) Sweep(olderThan time.Duration) (removed int, err error) {
	var (
		key   redirectFlowKey
		value redirectFlow
		old   []redirectFlowKey
	)
	limit, before, waiting := monotonic()-olderThan, r.tally.read(), uint64(0)
	it := r.objs.Flows.Iterate()
	for it.Next(&key, &value) {
		waiting++
		if time.Duration(value.Time) < limit {
			old = append(old, key)
		}
	}
	// An entry deleted under the iteration restarts it: some are seen twice, none is harmed.
	if err := it.Err(); err == nil {
		r.tally.correct(before, waiting)
	} else if !errors.Is(err, ebpf.ErrIterationAborted) {
		return 0, fmt.Errorf("read flows: %w", err)
	}
	for _, k := range old {
		if r.objs.Flows.Delete(&k) == nil {
			r.tally.took()
			removed++
		}
	}
	return removed, nil
}

// FlowCount is how many flows wait to be taken.
func (r *Redirect) FlowCount() (int, error) {
	var (
		key   redirectFlowKey
		value redirectFlow
		n     int
	)
	it := r.objs.Flows.Iterate()
	for it.Next(&key, &value) {
		n++
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return n, fmt.Errorf("read flows: %w", err)
	}
	return n, nil
}

// flowKey is the key under which the programs publish a connection.
func flowKey(cookie uint64, peer, local netip.AddrPort) redirectFlowKey {
	key := redirectFlowKey{Netns: cookie, PeerPort: peer.Port(), ListenerPort: local.Port()}
	key.Peer.Word = words(peer.Addr())
	return key
}

// words is an address as the programs write it: network order, IPv4 as v4-mapped.
func words(a netip.Addr) (w [4]uint32) {
	b := a.As16()
	for i := range w {
		w[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

func address(w [4]uint32) netip.Addr {
	var b [16]byte
	for i, v := range w {
		binary.NativeEndian.PutUint32(b[4*i:], v)
	}
	return netip.AddrFrom16(b).Unmap()
}

// monotonic is the clock of bpf_ktime_get_ns.
func monotonic() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail with this clock
	return time.Duration(ts.Nano())
}
