package intercept

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/scripts/containerbox"
)

// starts is how often a container in a namespace of its own is started whose first action is a connect. The one on the
// host's network is started half as often.
const starts = 200

// A container is intercepted from its command's first connect on, at every start: none goes
// past, and none is refused.
func TestFirstConnectOfAContainer(t *testing.T) {
	d := newDock(t)
	pair := kerneltest.NewPair(t)
	greeter(t, pair.Server, pair.ServerIP4)
	ns, addr := containerbox.HostLink(t)
	greeter(t, ns, addr.String())
	for name, o := range map[string]containerbox.ContainerOptions{
		"own":  {Args: connect(pair.ServerIP4), NetNS: pair.Agent},
		"host": {Args: connect(addr.String())},
	} {
		t.Run(name, func(t *testing.T) {
			c := d.box.Create(name, o)
			target, err := d.Attach(t.Context(), Request{Kind: KindContainer, Container: name})
			must(t, err)
			if target.State != StateWaiting || target.Reason == "" {
				t.Fatalf("a container that does not run: %+v", target)
			}
			before := d.Counters().Spliced
			starts := starts
			if o.NetNS == "" {
				starts /= 2
			}
			for i := 1; i <= starts; i++ {
				c.Start()
				code := c.Wait()
				c.Stop()
				got := d.Counters().Spliced - before
				if code != 0 || int(got) != i {
					t.Fatalf("start %d: exit status %d, %d connections came to us\n%s", i, code, got, c.Output())
				}
			}
			if n := strings.Count(c.Output(), "reached"); n != starts {
				t.Errorf("%d of %d reached the origin", n, starts)
			}
			must(t, d.Detach(t.Context(), target.ID))
		})
	}
	t.Run("new ones of a selector", func(t *testing.T) {
		selector, err := d.Attach(t.Context(), Request{Kind: KindSelector, Selector: "app=agent"})
		must(t, err)
		before := d.Counters().Spliced
		for i := 1; i <= starts/10; i++ {
			c := d.box.Create(fmt.Sprintf("new%d", i), containerbox.ContainerOptions{
				Args: connect(pair.ServerIP4), NetNS: pair.Agent, Labels: map[string]string{"app": "agent"},
			})
			c.Start()
			code := c.Wait()
			if got := d.Counters().Spliced - before; code != 0 || int(got) != i {
				t.Fatalf("start %d: exit status %d, %d connections came to us", i, code, got)
			}
			c.Remove()
		}
		must(t, d.Detach(t.Context(), selector.ID))
	})
	d.nothing()
}
