package pool_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// TestCloseWhileSomebodyAsks: what is asked of a keeper that is being closed, or of one that was, ends; with an error or with
// the truth. The API does not wait for ever for what goes on in it.
func TestCloseWhileSomebodyAsks(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(o *pool.Options) { o.CachedCooldowns = 1 }) // which each question has to fill anew
	names := make([]string, 30)
	for i := range names {
		names[i] = fmt.Sprintf("m%02d", i)
	}
	b.pool(t, names...)
	for range 20 {
		var asking, begun sync.WaitGroup
		stop, ended, k := make(chan struct{}), make(chan struct{}), b.Keeper
		for range 4 {
			begun.Add(1)
			asking.Go(func() {
				once := sync.OnceFunc(begun.Done)
				for {
					s, err := k.PoolStatus(t.Context(), "p")
					if err == nil && (len(s.Members) != len(names) || s.Active != names[0]) {
						t.Errorf("%+v", s)
					}
					once()
					select {
					case <-stop:
						return
					default:
					}
				}
			})
		}
		go func() {
			defer close(ended)
			begun.Wait()
			b.stop()
			close(stop)
			asking.Wait()
		}()
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Fatal("somebody waits for what never comes")
		}
		b.start(t)
	}
}
