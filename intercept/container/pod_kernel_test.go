package container

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/scripts/containerbox"
)

// TestPods finds what kubelet has made, by CRI of a real containerd: by the pod's name, the container's and both, and by a
// label that a person gave the pod, which no container of it has.
func TestPods(t *testing.T) {
	b := containerbox.New(t, containerbox.Options{Kubernetes: true})
	f := finder(t, b, nil)
	label := Selector{"app", "agent"}
	stay := []string{"sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"}
	web := b.Pod("prod", "web-1", map[string]string{label.Key: label.Value, "nerdctl/name": "no"})
	agent, proxy := web.Create("agent", 0, stay...), web.Create("proxy", 0, stay...)
	web.Start(agent)
	web.Start(proxy)
	other := b.Pod("prod", "batch", nil)
	lone := other.Create("worker", 0, stay...)
	other.Start(lone)
	for name, want := range map[string]string{
		"web-1/agent": agent, "agent": agent, "proxy": proxy, "batch": lone, "batch/worker": lone, lone[:20]: lone,
	} {
		c, err := f.Find(t.Context(), Query{Name: name})
		if err != nil || c.ID != want || c.PID == 0 || c.Runtime != Kubernetes || c.Namespace != "k8s.io" || c.PodNamespace != "prod" {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	if _, err := f.Find(t.Context(), Query{Name: "web-1"}); !errors.Is(err, ErrAmbiguous) || !strings.Contains(err.Error(), agent) ||
		!strings.Contains(err.Error(), proxy) || strings.Contains(err.Error(), web.ID) {
		t.Errorf("a pod with two: %v", err)
	}
	if _, err := f.Find(t.Context(), Query{Name: web.ID}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a sandbox: %v", err)
	}
	all, err := f.Select(t.Context(), label, "")
	if err != nil || len(all) != 2 {
		t.Fatalf("by the pod's label: %+v, %v", all, err)
	}
	for _, c := range all {
		if c.ID != agent && c.ID != proxy || c.Name != "web-1/agent" && c.Name != "web-1/proxy" {
			t.Errorf("by the pod's label: %+v", c)
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := f.Watch(ctx)
	next(t, events, "the list", func(e Event) bool { return e.Change == Listed })
	web.Stop(agent)
	again := web.Create("agent", 1, stay...)
	web.Start(again)
	e := next(t, events, "its next generation", func(e Event) bool { return e.Change == Starting && e.Container.ID == again })
	if !label.Matches(e.Container) || e.Container.Name != "web-1/agent" {
		t.Errorf("it starts: %+v", e)
	}
	if c, err := f.Find(t.Context(), Query{Name: "agent"}); err != nil || c.ID != again {
		t.Errorf("of two generations: %+v, %v", c, err)
	}
	cancel()
	for range events { // it ends
	}
}
