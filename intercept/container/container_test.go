package container

import (
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func made(namespace, id string, labels ...string) Container {
	c := Container{ID: id, Namespace: namespace, Labels: make(map[string]string), PID: 1}
	for i := 0; i < len(labels); i += 2 {
		c.Labels[labels[i]] = labels[i+1]
	}
	c.complete()
	return c
}

func pod(id, pod, name string) Container {
	return made("k8s.io", id, labelKind, "container", labelPod, pod, labelPodNamespace, "default", labelContainer, name)
}

func TestChoose(t *testing.T) {
	t.Parallel()
	docker := made("moby", "c0ffee11")
	docker.Name = "agent"
	stopped := pod("dead0001", "web-1", "app")
	stopped.PID, stopped.Created = 0, time.Unix(900, 0)
	all := []Container{
		made("default", "hermes"),
		made("default", "beef0001", labelNerdctlName, "worker"),
		made("other", "beef0002", labelNerdctlName, "worker"),
		docker,
		made("k8s.io", "5a11d001", labelKind, "sandbox", labelPod, "web-1", labelPodNamespace, "default"),
		stopped,
		pod("dead0002", "web-1", "app"),
		pod("dead0003", "web-1", "sidecar"),
		pod("dead0004", "lone", "app"),
		made("default", "c0ffee"), // named as the beginning of another's id
	}
	for name, want := range map[string]string{
		"hermes":      "hermes",
		"agent":       "c0ffee11",
		"c0ffee":      "c0ffee",
		"c0ffee1":     "c0ffee11",
		"web-1/app":   "dead0002", // the one that runs, not its former generation
		"lone":        "dead0004",
		"sidecar":     "dead0003",
		"beef0002":    "beef0002",
		"worker":      "?beef0001 (namespace default, nerdctl worker), beef0002 (namespace other, nerdctl worker)",
		"app":         "?dead0002 (namespace k8s.io, kubernetes web-1/app)",
		"web-1":       "?dead0003",
		"beef":        "?beef0001",
		"5a11d001":    "", // only holds a pod's namespaces
		"":            "",
		"HERMES":      "",
		"hermes ":     "",
		"web-1/other": "",
	} {
		got, err := choose(all, name)
		switch {
		case want == "":
			if !errors.Is(err, ErrNotFound) {
				t.Errorf("%q: %v, %v", name, got.ID, err)
			}
		case want[0] == '?':
			if !errors.Is(err, ErrAmbiguous) || !strings.Contains(err.Error(), want[1:]) {
				t.Errorf("%q: %v, %v", name, got.ID, err)
			}
		case err != nil || got.ID != want:
			t.Errorf("%q: %v, %v", name, got.ID, err)
		}
	}
}

func TestAmbiguousNamesNotEverything(t *testing.T) {
	t.Parallel()
	var all []Container
	for _, digit := range "0123456789abcdef" {
		all = append(all, made("default", "ab"+string(digit)))
	}
	_, err := choose(all, "a")
	if err == nil || !strings.Contains(err.Error(), "ab9 ") || !strings.Contains(err.Error(), "and 6 more") {
		t.Errorf("error: %v", err)
	}
}

func TestSelector(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Selector{
		"app=agent": {"app", "agent"}, "app=": {"app", ""}, "a=b=c": {"a", "b=c"},
		"app": {}, "=x": {}, "": {}, " app=x": {},
	} {
		got, err := ParseSelector(text)
		if got != want || (err == nil) != (want != Selector{}) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
		if err == nil && got.String() != text {
			t.Errorf("%q is written as %q", text, got)
		}
	}
	s := Selector{labelPod, "web-1"}
	if s.Matches(made("k8s.io", "5a11d001", labelKind, "sandbox", labelPod, "web-1")) {
		t.Error("it matches what only holds a pod's namespaces")
	}
	if !s.Matches(pod("dead0002", "web-1", "app")) || s.Matches(made("default", "x")) {
		t.Error("it does not go by the label")
	}
}

func TestMergeDocker(t *testing.T) {
	t.Parallel()
	all := merge([]Container{made("moby", "c0ffee11", "com.docker/engine.bundle.path", "/x")}, []dockerContainer{
		{ID: "c0ffee11", Names: []string{"/other/link", "/agent"}, Labels: map[string]string{"app": "agent"}},
		{ID: "beef", Names: []string{"/elsewhere"}, Created: 900},
	})
	if len(all) != 2 || all[0].Name != "agent" || all[0].Labels["app"] != "agent" || len(all[0].Labels) != 2 {
		t.Errorf("merged: %+v", all)
	}
	if all[1].Name != "elsewhere" || all[1].Runtime != Docker || !all[1].Created.Equal(time.Unix(900, 0)) {
		t.Errorf("only Docker's: %+v", all)
	}
}

// Why no daemon answers is said without what Go puts before it.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	deaf := filepath.Join(dir, "deaf.sock") // nobody accepts
	l, err := net.Listen("unix", deaf)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	stale := filepath.Join(dir, "stale.sock")
	gone, err := net.Listen("unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	gone.(*net.UnixListener).SetUnlinkOnClose(false)
	gone.Close()
	none := filepath.Join(dir, "none.sock")
	for _, tc := range []struct{ containerd, docker, want string }{
		{none, none, "containerd at " + none + ": no such file or directory; Docker at " + none + ": no such file or directory"},
		{none, stale, "Docker at " + stale + ": connection refused"},
		{none, deaf, "Docker at " + deaf + ": no answer within 300ms"},
		{deaf, none, "containerd at " + deaf + ": no answer within 300ms"},
	} {
		f := New(Options{Containerd: tc.containerd, Docker: tc.docker, Timeout: 300 * time.Millisecond})
		_, err := f.Find(t.Context(), Query{Name: "x"})
		f.Close()
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v, want %q", err, tc.want)
		}
	}
}
