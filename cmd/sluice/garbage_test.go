package main

import "testing"

func TestGarbageShare(t *testing.T) {
	t.Parallel()
	share := usualGarbage
	for _, step := range []struct {
		inUse uint64
		want  int
	}{
		{10 << 20, usualGarbage},
		{40 << 20, usualGarbage},
		{48 << 20, scarceGarbage},
		{1 << 30, scarceGarbage},
		{40 << 20, scarceGarbage},
		{32 << 20, usualGarbage},
		{0, usualGarbage},
	} {
		if share = garbageShare(share, step.inUse); share != step.want {
			t.Errorf("%d MiB in use: %d, want %d", step.inUse>>20, share, step.want)
		}
	}
}
