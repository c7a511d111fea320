package exchange

import (
	"bytes"
	"testing"
)

// TestNarrow reads short and long pieces: what once had a long one keeps its block.
func TestNarrow(t *testing.T) {
	t.Parallel()
	b := buffer{pool: new(blocks)}
	for i, step := range []struct{ read, want int }{{100, block1k}, {200, block1k}, {block1k, block16k}, {10, block16k}, {block16k, block16k}, {1, block16k}} {
		if _, err := b.fill(bytes.NewReader(make([]byte, step.read)), block16k); err != nil {
			t.Fatal(err)
		}
		b.r = b.w
		b.widen()
		b.narrow()
		if len(b.b) != step.want {
			t.Errorf("step %d: a block of %d, want %d", i, len(b.b), step.want)
		}
	}
}
