// Package container finds containers by the names that people know them by, and tells when they start and end.
package container

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Where the daemons listen, unless told otherwise.
const (
	DefaultContainerd = "/run/containerd/containerd.sock"
	DefaultDocker     = "/var/run/docker.sock"
)

var (
	// ErrNotFound says that there is no such container.
	ErrNotFound = errors.New("no such container")
	// ErrAmbiguous says that a name fits several containers.
	ErrAmbiguous = errors.New("the name is ambiguous")
	// ErrUnavailable says that no container daemon answers.
	ErrUnavailable = errors.New("no container daemon answers")
)

// The runtimes, as [Container.Runtime] tells them: by whom a container was made.
const (
	Containerd = "containerd"
	Docker     = "docker"
	Kubernetes = "kubernetes"
	Nerdctl    = "nerdctl"
)

// Labels that others put on containers in containerd, and the namespaces that they use.
const (
	labelNerdctlName  = "nerdctl/name"
	labelKind         = "io.cri-containerd.kind"
	labelPod          = "io.kubernetes.pod.name"
	labelPodNamespace = "io.kubernetes.pod.namespace"
	labelPodUID       = "io.kubernetes.pod.uid"
	labelContainer    = "io.kubernetes.container.name"

	namespaceDocker     = "moby"
	namespaceKubernetes = "k8s.io"
)

// Container is a container as its daemon has it.
type Container struct {
	ID        string
	Namespace string // containerd's
	Runtime   string
	Name      string // as its runtime shows it; the ID where there is no other
	// PodNamespace is Kubernetes', in which a pod's name is unique.
	PodNamespace string
	Labels       map[string]string // containerd's, Docker's, and those of its pod
	Environment  []string          // what containerd has its command given, as NAME=value
	PID          int               // its first process, in this PID namespace; 0: it does not run
	Created      time.Time
}

// Query says which container is meant.
type Query struct {
	// Name is an ID, the unambiguous beginning of one, a name of nerdctl's or Docker's, a
	// Kubernetes pod's or container's name, or POD/CONTAINER.
	Name string
	// Namespace is containerd's. "": all of them.
	Namespace string
}

// Selector is a label that containers are chosen by.
type Selector struct{ Key, Value string }

// ParseSelector reads KEY=VALUE. The value may be empty, the key may not.
func ParseSelector(text string) (Selector, error) {
	key, value, ok := strings.Cut(text, "=")
	if !ok || key == "" || strings.TrimSpace(key) != key {
		return Selector{}, fmt.Errorf("selector %q: it has to be KEY=VALUE, such as app=agent", text)
	}
	return Selector{Key: key, Value: value}, nil
}

// String is the selector as it is written.
func (s Selector) String() string { return s.Key + "=" + s.Value }

// Matches tells whether a container carries the label.
func (s Selector) Matches(c Container) bool {
	value, ok := c.Labels[s.Key]
	return ok && value == s.Value && !c.sandbox()
}

// sandbox tells whether it is what only holds a pod's namespaces.
func (c Container) sandbox() bool { return c.Labels[labelKind] == "sandbox" }

// complete fills in what follows from namespace and labels.
func (c *Container) complete() {
	switch {
	case c.Labels[labelPod] != "":
		c.Runtime, c.PodNamespace = Kubernetes, c.Labels[labelPodNamespace]
		c.Name = c.Labels[labelPod]
		if name := c.Labels[labelContainer]; name != "" {
			c.Name += "/" + name
		}
	case c.Labels[labelNerdctlName] != "":
		c.Runtime, c.Name = Nerdctl, c.Labels[labelNerdctlName]
	case c.Namespace == namespaceDocker:
		c.Runtime = Docker
	case c.Namespace == namespaceKubernetes:
		c.Runtime = Kubernetes
	default:
		c.Runtime = Containerd
	}
	if c.Name == "" {
		c.Name = c.ID
	}
}

// named tells whether people call it that.
func (c Container) named(name string) bool {
	switch c.Runtime {
	case Kubernetes:
		return name == c.Labels[labelContainer] || name == c.Labels[labelPod] || name == c.Name
	case Containerd:
		return false // its name is its ID
	}
	return name == c.Name
}

// Same tells whether two are the same container, or generations of it: what a pod's
// container becomes when it is restarted, and a container that was made anew under its name.
func (c Container) Same(o Container) bool {
	if c.Namespace != o.Namespace || c.Runtime != o.Runtime {
		return false
	}
	return c.ID == o.ID || c.Name == o.Name && c.PodNamespace == o.PodNamespace
}

// choose picks the container that a name means: an ID before a name, a name before the
// beginning of an ID.
func choose(all []Container, name string) (Container, error) {
	for _, fits := range []func(Container) bool{
		func(c Container) bool { return c.ID == name },
		func(c Container) bool { return c.named(name) },
		func(c Container) bool { return strings.HasPrefix(c.ID, name) },
	} {
		var found []Container
		for _, c := range all {
			if !c.sandbox() && name != "" && fits(c) {
				found = addGeneration(found, c)
			}
		}
		switch len(found) {
		case 0:
			continue
		case 1:
			return found[0], nil
		}
		return Container{}, ambiguous(name, found)
	}
	return Container{}, ErrNotFound
}

// addGeneration adds c, unless a generation of it is there: then the one that runs
// stays, or the newer.
func addGeneration(found []Container, c Container) []Container {
	for i, other := range found {
		if !c.Same(other) {
			continue
		}
		running := cmp.Compare(min(c.PID, 1), min(other.PID, 1))
		if cmp.Or(running, c.Created.Compare(other.Created)) > 0 {
			found[i] = c
		}
		return found
	}
	return append(found, c)
}

// listed is how many candidates an error names.
const listed = 10

func ambiguous(name string, found []Container) error {
	slices.SortFunc(found, func(a, b Container) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	var words []string
	for i, c := range found {
		if i == listed {
			words = append(words, fmt.Sprintf("and %d more", len(found)-listed))
			break
		}
		word := fmt.Sprintf("%s (namespace %s, %s", c.ID, c.Namespace, c.Runtime)
		if c.Name != c.ID {
			word += " " + c.Name
		}
		words = append(words, word+")")
	}
	return fmt.Errorf("container %q: %w: it fits %s; give a whole id, or --namespace", name, ErrAmbiguous, strings.Join(words, ", "))
}
