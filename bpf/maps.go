package bpf

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// readMap is all that is in a map. Of what that is, holds tells the reader of the error.
func readMap[K comparable, V any](m *ebpf.Map, holds string) (map[K]V, error) {
	var (
		key   K
		value V
		all   = make(map[K]V)
	)
	it := m.Iterate()
	for it.Next(&key, &value) {
		all[key] = value
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", holds, err)
	}
	return all, nil
}

func copyMap(into, from *ebpf.Map) error {
	var key, value []byte
	it := from.Iterate()
	for it.Next(&key, &value) {
		if err := into.Put(key, value); err != nil {
			return err
		}
	}
	return it.Err()
}
