package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf/ringbuf"
)

// EventNoListener says that a process of an attached cgroup uses a network
// namespace in which nobody listens: its connects to bound ports are refused. Or one
// that has a listener and no way by IPv6: its connects by that are.
type EventNoListener struct {
	Cookie   uint64 // of the namespace
	CgroupID uint64
	PID      uint32 // in the initial PID namespace
}

// EventReader reads the kernel's events. Close ends a Read that waits.
type EventReader struct{ ring *ringbuf.Reader }

// Events starts reading. The kernel tells of a namespace about once a second.
func (r *Redirect) Events() (*EventReader, error) {
	ring, err := ringbuf.NewReader(r.objs.Events)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return &EventReader{ring: ring}, nil
}

// Read waits for the next event. Error: [os.ErrClosed] after Close.
func (e *EventReader) Read() (EventNoListener, error) {
	rec, err := e.ring.Read()
	if err != nil {
		return EventNoListener{}, fmt.Errorf("read event: %w", err)
	}
	var ev redirectEvent
	if err := binary.Read(bytes.NewReader(rec.RawSample), binary.NativeEndian, &ev); err != nil {
		return EventNoListener{}, fmt.Errorf("decode event: %w", err)
	}
	return EventNoListener{Cookie: ev.Netns, CgroupID: ev.Cgroup, PID: ev.Pid}, nil
}

// Close ends reading.
func (e *EventReader) Close() error { return e.ring.Close() }
