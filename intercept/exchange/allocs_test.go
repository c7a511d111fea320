//go:build !race

package exchange

import (
	"testing"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/echo"
)

// maxSmallRequestAllocs is what one kept-alive request was measured to allocate,
// client and origin of the test included.
const maxSmallRequestAllocs = 6

// TestSmallRequestAllocations does not count under the race detector, which
// allocates on its own.
func TestSmallRequestAllocations(t *testing.T) {
	h := newBench(t, setup{raw: smallOrigin, change: func(o *Options) {
		o.Pools = &still{pool.Lease{
			Pool: "p", Member: "a", Strip: []string{"authorization", "x-api-key"},
			Inject: []pool.Field{{Name: "authorization", Value: []byte("Bearer real-secret-a")}},
			Echo:   echo.New([]echo.Secret{{Value: []byte("real-secret-a"), Placeholder: []byte("placeholder")}}),
		}}
	}})
	one := smallRequests(t, h.dial("http/1.1"))
	for range 100 {
		one() // fills the pools of blocks
	}
	// The best of three: a collection in between empties the pools of blocks.
	best := testing.AllocsPerRun(500, one)
	for range 2 {
		best = min(best, testing.AllocsPerRun(500, one))
	}
	if best > maxSmallRequestAllocs {
		t.Errorf("%.1f allocations per request, were %d", best, maxSmallRequestAllocs)
	}
}

// TestHeadAllocations holds reading a request's head, looking where it goes and writing it
// with the credential for the upstream: all of it in buffers that are there already.
func TestHeadAllocations(t *testing.T) {
	for name, one := range map[string]func(testing.TB) func(){"request": headOnce, "response": responseOnce} {
		f := one(t)
		if n := testing.AllocsPerRun(1000, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
