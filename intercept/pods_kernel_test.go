package intercept

import (
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/intercept/container"
	"github.com/sluice-proxy/sluice/scripts/containerbox"
)

// A pod's containers, made as kubelet makes them: by a label that the pod has, and by its name and the container's, from
// the first connect on, at each start, which is of another container each time.
func TestPodsContainers(t *testing.T) {
	box := containerbox.New(t, containerbox.Options{Kubernetes: true})
	d := &dock{box: box, docker: t.TempDir() + "/d.sock", t: t, hooks: newRedirect(t)}
	d.start(nil)
	ns, addr := containerbox.HostLink(t)
	greeter(t, ns, addr.String())
	labelled := box.Pod("prod", "web", map[string]string{"app": "agent"})
	other := box.Pod("prod", "other", nil)
	const times = 5
	run := func(p *containerbox.Pod, attempt uint32, intercepted uint64) {
		t.Helper()
		before := d.Counters().Spliced
		p.Start(p.Create("agent", attempt, connect(addr.String())...))
		eventually(t, "it has asked", func() bool { return strings.HasSuffix(p.Output("agent", attempt), " reached") })
		if got := d.Counters().Spliced - before; got != intercepted {
			t.Errorf("attempt %d: %d connections came to us, want %d", attempt, got, intercepted)
		}
	}
	selector, err := d.Attach(t.Context(), Request{Kind: KindSelector, Selector: "app=agent"})
	must(t, err)
	for i := range uint32(times) {
		run(labelled, i, 1)
	}
	run(other, 0, 0)
	must(t, d.Detach(t.Context(), selector.ID))

	target, err := d.Attach(t.Context(), Request{Kind: KindContainer, Container: "other/agent"})
	must(t, err)
	if target.State != StateWaiting || target.Runtime != container.Kubernetes || target.Container != "other/agent" || target.PodNamespace != "prod" {
		t.Errorf("target: %+v", target)
	}
	for i := range uint32(times) {
		run(other, 1+i, 1)
	}
	run(labelled, times, 0)
	must(t, d.Detach(t.Context(), target.ID))
	d.nothing()
}
