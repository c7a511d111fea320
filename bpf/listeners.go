package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// Listener is where connects of one network namespace go. A port of 0 means none.
type Listener struct {
	Port4 uint16 // on 127.0.0.1
	Port6 uint16 // on ::1
	// NoWay6 says that the namespace has no way to the addresses of IPv6's internet: connects to
	// them fail at once with ENETUNREACH, and are told of as those are that find no listener.
	NoWay6 bool
}

// SetListener publishes a namespace's listener. Call it after listen(2): from now
// on connects arrive.
func (r *Redirect) SetListener(cookie uint64, l Listener) error {
	value := redirectListener{Port4: l.Port4, Port6: l.Port6}
	if l.NoWay6 {
		value.NoWay6 = 1
	}
	if err := r.objs.Listeners.Put(cookie, value); err != nil {
		return fmt.Errorf("publish listener of namespace %d: %w", cookie, err)
	}
	return nil
}

// DeleteListener takes a namespace's listener back: its connects to bound ports are
// refused. It is no error if there was none.
func (r *Redirect) DeleteListener(cookie uint64) error {
	if err := r.objs.Listeners.Delete(cookie); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("withdraw listener of namespace %d: %w", cookie, err)
	}
	return nil
}

// Listeners returns what is published, by namespace cookie.
func (r *Redirect) Listeners() (map[uint64]Listener, error) {
	published, err := readMap[uint64, redirectListener](r.objs.Listeners, "listeners")
	if err != nil {
		return nil, err
	}
	all := make(map[uint64]Listener, len(published))
	for cookie, l := range published {
		all[cookie] = Listener{Port4: l.Port4, Port6: l.Port6, NoWay6: l.NoWay6 != 0}
	}
	return all, nil
}
