package containerd

import (
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/reset"
	"github.com/sluice-proxy/sluice/scripts/containerbox"
)

// TestContainerRestartsUnderLoad restarts a container five times while commands are run
// in it all the time: each ends in time, as what it says or with the reason why not, and
// after the last restart they all work again.
func TestContainerRestartsUnderLoad(t *testing.T) {
	b, r := newBox(t)
	c := b.Run("agent", containerbox.ContainerOptions{})
	stop := make(chan struct{})
	var load sync.WaitGroup
	var mu sync.Mutex
	worked, refused := 0, 0
	for range 3 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				cmd := command("sh", "-c", "echo said; exit 5")
				cmd.Timeout = 5 * time.Second
				got, err := r.Exec(t.Context(), "agent", cmd)
				mu.Lock()
				switch {
				case err == nil && got.ExitCode == 5 && string(got.Output) == "said\n":
					worked++
				case err == nil && (got.ExitCode == 128+9 || got.ExitCode == 128+15), // killed with its container
					errors.Is(err, reset.ErrNotRunning), errors.Is(err, reset.ErrNotFound):
					refused++
				default:
					t.Errorf("%+v %q, %v", got, got.Output, err)
				}
				mu.Unlock()
			}
		})
	}
	for range 5 {
		mu.Lock()
		running := worked + 5
		mu.Unlock()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			mu.Lock()
			enough := worked >= running
			mu.Unlock()
			if enough {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("no command works")
			}
		}
		c.Restart()
	}
	close(stop)
	load.Wait()
	t.Logf("%d worked, %d were refused", worked, refused)
	if got, err := r.Exec(t.Context(), "agent", command("true")); err != nil || got.ExitCode != 0 {
		t.Errorf("after the last restart: %+v, %v", got, err)
	}
	alone(t, c)
	if left, err := os.ReadDir(r.opts.FIFODir); err != nil || len(left) > 0 {
		t.Errorf("FIFOs left: %v, %v", left, err)
	}
}
