package main

import (
	"math"
	"testing"
)

func TestKeepable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ budget, limit, want int64 }{
		{256 << 20, math.MaxInt64, 256 << 20}, // GOMEMLIMIT is not set
		{256 << 20, 64 << 20, 16 << 20},
		{8 << 20, 64 << 20, 8 << 20},
		{256 << 20, 2 << 30, 256 << 20},
	} {
		if got := keepable(c.budget, c.limit); got != c.want {
			t.Errorf("of %d under a limit of %d: %d, want %d", c.budget, c.limit, got, c.want)
		}
	}
}

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
