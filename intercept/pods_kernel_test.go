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
	const times = 3
	run := func(p *containerbox.Pod, attempt uint32, intercepted uint64) {
		t.Helper()
		before := d.Counters().Spliced
		id := p.Create("agent", attempt, connect(addr.String())...)
		p.Start(id)
		code := p.Wait(id)
		if got := d.Counters().Spliced - before; code != 0 || got != intercepted || !strings.HasSuffix(p.Output("agent", attempt), " reached") {
			t.Errorf("attempt %d: status %d, %d connections came to us, want %d: %s", attempt, code, got, intercepted, p.Output("agent", attempt))
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

// A generation that starts while the one before it still runs is attached when that has ended.
func TestGenerationsThatOverlap(t *testing.T) {
	box := containerbox.New(t, containerbox.Options{Kubernetes: true})
	d := &dock{box: box, docker: t.TempDir() + "/d.sock", t: t, hooks: newRedirect(t)}
	d.start(nil)
	pod := box.Pod("prod", "web", map[string]string{"app": "agent"})
	selector, err := d.Attach(t.Context(), Request{Kind: KindSelector, Selector: "app=agent"})
	must(t, err)
	stay := []string{"sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"}
	first, second := pod.Create("agent", 0, stay...), pod.Create("agent", 1, stay...)
	of := func(id string) bool {
		for _, x := range d.Targets() {
			if x.ContainerID == id && x.State == StateAttached {
				return true
			}
		}
		return false
	}
	pod.Start(first)
	eventually(t, "the first is attached", func() bool { return of(first) })
	pod.Start(second)
	if !of(first) || of(second) {
		t.Errorf("both run: %+v", d.Targets())
	}
	pod.Stop(first)
	eventually(t, "the second is attached", func() bool { return of(second) })
	must(t, d.Detach(t.Context(), selector.ID))
	d.nothing()
}
