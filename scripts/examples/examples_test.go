// Package examples holds what people copy to their hosts to the schemas of Docker Compose and Kubernetes. It is a module
// of its own, so that nothing else depends on their libraries.
package examples

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/schema"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

func read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestCompose(t *testing.T) {
	text := read(t, "compose.yaml")
	var project map[string]any
	if err := yaml.UnmarshalStrict(text, &project); err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(project); err != nil {
		t.Error(err)
	}
	// What the schema lets pass is seen to be one that refuses.
	services := project["services"].(map[string]any)
	services["sluice"].(map[string]any)["privilegd"] = true
	if err := schema.Validate(project); err == nil {
		t.Error("a key that there is none of is valid")
	}
}

// strict reads an object as the API server does: names are case-sensitive, and unknown ones errors.
func strict(text []byte, object any) error {
	data, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return err
	}
	unknown, err := json.UnmarshalStrict(data, object)
	return errors.Join(append(unknown, err)...)
}

// manifests are the objects of a file, each read strictly as what it says it is.
func manifests(t *testing.T, text []byte) map[string]any {
	t.Helper()
	found := make(map[string]any)
	for _, part := range bytes.Split(text, []byte("\n---\n")) {
		var kind struct{ APIVersion, Kind string }
		if err := yaml.Unmarshal(part, &kind); err != nil {
			t.Fatal(err)
		}
		object := map[string]any{
			"v1 Namespace": new(corev1.Namespace), "v1 ConfigMap": new(corev1.ConfigMap), "apps/v1 DaemonSet": new(appsv1.DaemonSet),
		}[kind.APIVersion+" "+kind.Kind]
		if object == nil {
			t.Fatalf("%+v is not known to this test", kind)
		}
		if err := strict(part, object); err != nil {
			t.Errorf("%s: %v", kind.Kind, err)
		}
		found[kind.Kind] = object
	}
	return found
}

func TestKubernetes(t *testing.T) {
	found := manifests(t, read(t, "kubernetes.yaml"))
	if kinds := slices.Sorted(maps.Keys(found)); !slices.Equal(kinds, []string{"ConfigMap", "DaemonSet", "Namespace"}) {
		t.Fatalf("%v", kinds)
	}
	set := found["DaemonSet"].(*appsv1.DaemonSet)
	if set.Namespace != found["Namespace"].(*corev1.Namespace).Name {
		t.Errorf("it is in the namespace %q", set.Namespace)
	}
	// The selector has to fit the template, and each mount a volume: no schema says so, and the API server does.
	for key, value := range set.Spec.Selector.MatchLabels {
		if set.Spec.Template.Labels[key] != value {
			t.Errorf("the template has not the label %s=%s", key, value)
		}
	}
	volumes := make(map[string]bool)
	for _, v := range set.Spec.Template.Spec.Volumes {
		volumes[v.Name] = true
	}
	for _, c := range set.Spec.Template.Spec.Containers {
		for _, m := range c.VolumeMounts {
			if !volumes[m.Name] {
				t.Errorf("%s is mounted and is no volume", m.Name)
			}
			delete(volumes, m.Name)
		}
	}
	if len(volumes) > 0 {
		t.Errorf("volumes that are not mounted: %v", volumes)
	}
	config := found["ConfigMap"].(*corev1.ConfigMap)
	if volume := set.Spec.Template.Spec.Volumes[0]; volume.ConfigMap == nil || volume.ConfigMap.Name != config.Name || config.Data["config.toml"] == "" {
		t.Errorf("the configuration is not mounted: %+v", volume)
	}
	text := strings.Replace(string(read(t, "kubernetes.yaml")), "hostPID", "hostPid", 1)
	if err := strict([]byte(strings.Split(text, "\n---\n")[2]), new(appsv1.DaemonSet)); err == nil {
		t.Error("a key that there is none of is valid")
	}
}
