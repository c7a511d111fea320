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
	r.tally.took(value.Share)
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
	limit, before := monotonic()-olderThan, r.tally.read()
	waiting := make([]int64, len(before))
	old, whole, err := r.findFlows(func(f *redirectFlow) bool {
		if all := len(waiting) - 1; int(f.Share) < all {
			waiting[all]++
			waiting[f.Share]++
		}
		return time.Duration(f.Time) < limit
	})
	if err != nil {
		return 0, err
	}
	if whole {
		r.tally.correct(before, waiting)
	}
	return r.deleteFlows(old), nil
}

// findFlows returns the keys of those that are meant, and whether it came to the end. An entry deleted under the iteration restarts
// it: some are seen twice, none is harmed.
func (r *Redirect) findFlows(meant func(*redirectFlow) bool) (keys []redirectFlowKey, whole bool, err error) {
	var (
		key   redirectFlowKey
		value redirectFlow
	)
	it := r.objs.Flows.Iterate()
	for it.Next(&key, &value) {
		if meant(&value) {
			keys = append(keys, key)
		}
	}
	if err = it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, false, fmt.Errorf("read flows: %w", err)
	}
	return keys, err == nil, nil
}

// deleteFlows returns how many of them were still there.
func (r *Redirect) deleteFlows(keys []redirectFlowKey) (deleted int) {
	var value redirectFlow
	for _, key := range keys {
		if r.objs.Flows.LookupAndDelete(&key, &value) == nil {
			r.tally.took(value.Share)
			deleted++
		}
	}
	return deleted
}

// FlowCount is how many flows wait to be taken.
func (r *Redirect) FlowCount() (int, error) {
	all, _, err := r.findFlows(func(*redirectFlow) bool { return true })
	return len(all), err
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
