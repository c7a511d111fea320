package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// SetPorts makes these TCP ports, and no others, the redirected ones. A port that
// was and stays bound is bound throughout.
func (r *Redirect) SetPorts(ports []uint16) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	keep := make(map[uint16]bool, len(ports))
	for _, p := range ports {
		keep[p] = true
		if err := r.objs.Ports.Put(p, uint8(1)); err != nil {
			return fmt.Errorf("bind port %d: %w", p, err)
		}
	}
	bound, err := readMap[uint16, uint8](r.objs.Ports, "ports")
	if err != nil {
		return err
	}
	for p := range bound {
		if keep[p] {
			continue
		}
		if err := r.objs.Ports.Delete(p); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("unbind port %d: %w", p, err)
		}
	}
	return nil
}
