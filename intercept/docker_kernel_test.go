package intercept

import (
	"fmt"
	"testing"

	"github.com/sluice-proxy/sluice/intercept/container"
	"github.com/sluice-proxy/sluice/scripts/containerbox"
)

// Docker's containers by their name and by their label, which containerd has not: from
// the first connect on, at each start.
func TestDockerContainers(t *testing.T) {
	box := containerbox.New(t, containerbox.Options{})
	docker := box.Docker()
	d := &dock{box: box, docker: docker.Socket, t: t, hooks: newRedirect(t)}
	d.start(nil)
	ns, addr := containerbox.HostLink(t)
	greeter(t, ns, addr.String())
	run := func(i int, args ...string) {
		t.Helper()
		before := d.Counters().Spliced
		said, err := docker.Try(args...)
		if got := d.Counters().Spliced - before; err != nil || said != "reached\n" || got != 1 {
			t.Fatalf("start %d: %v, %q, %d connections came to us", i, err, said, got)
		}
	}
	image := append([]string{containerbox.ImageName}, connect(addr.String())...)
	docker.Run(append([]string{"create", "--name", "agent", "--network", "host"}, image...)...)
	target, err := d.Attach(t.Context(), Request{Kind: KindContainer, Container: "agent"})
	must(t, err)
	if target.Container != "agent" || target.Runtime != container.Docker || target.Namespace != "moby" || target.State != StateWaiting {
		t.Errorf("target: %+v", target)
	}
	for i := range 10 {
		run(i, "start", "-a", "agent")
	}
	docker.Run("rm", "agent")
	docker.Run(append([]string{"create", "--name", "agent", "--network", "host"}, image...)...)
	run(0, "start", "-a", "agent") // another one of that name
	must(t, d.Detach(t.Context(), target.ID))

	selector, err := d.Attach(t.Context(), Request{Kind: KindSelector, Selector: "app=agent"})
	must(t, err)
	for i := range 10 {
		run(i, append([]string{"run", "--rm", "--name", fmt.Sprint("new", i), "--label", "app=agent", "--network", "host"}, image...)...)
	}
	if said, err := docker.Try(append([]string{"run", "--rm", "--network", "host"}, image...)...); err != nil || said != "reached\n" {
		t.Errorf("one without the label: %v, %q", err, said)
	}
	if got := d.Counters().Spliced; got != 21 {
		t.Errorf("%d connections came to us, not 21", got)
	}
	must(t, d.Detach(t.Context(), selector.ID))
	d.nothing()
}
