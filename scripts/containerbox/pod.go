package containerbox

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// kubernetesNamespace is where containerd keeps what kubelet asks for.
const kubernetesNamespace = "k8s.io"

// Pod is a pod on the host's network, made as kubelet makes one: containerd is asked over CRI, with the labels that
// kubelet gives (newPodLabels and newContainerLabels in its kuberuntime).
type Pod struct {
	ID string // of the sandbox

	box    *Box
	conn   *grpc.ClientConn
	cri    cri.RuntimeServiceClient
	config *cri.PodSandboxConfig
}

func (b *Box) criDisabled() string {
	if b.kubernetes {
		return ""
	}
	return `"io.containerd.grpc.v1.cri", `
}

// criConfig keeps CRI from what this machine's own would use.
func (b *Box) criConfig() string {
	if !b.kubernetes {
		return ""
	}
	return fmt.Sprintf(`[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  restrict_oom_score_adj = true
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %[2]q
    conf_dir = %[2]q
`, ImageName, filepath.Join(b.dir, "cni"))
}

// Pod makes a pod with a user's labels. At the end of the test it is removed.
func (b *Box) Pod(namespace, name string, labels map[string]string) *Pod {
	b.t.Helper()
	ctx, cancel := b.context()
	defer cancel()
	if len(b.pods) == 0 {
		if _, err := b.Client.Import(namespaces.WithNamespace(ctx, kubernetesNamespace), bytes.NewReader(b.Image)); err != nil {
			b.t.Fatalf("import the image for Kubernetes: %v", err)
		}
	}
	uid := fmt.Sprintf("%s-%s-%s", b.Namespace, namespace, name)
	all := maps.Clone(labels)
	if all == nil {
		all = make(map[string]string)
	}
	maps.Copy(all, podLabels(namespace, name, uid))
	conn, err := grpc.NewClient("unix://"+b.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.t.Fatal(err)
	}
	p := &Pod{box: b, conn: conn, cri: cri.NewRuntimeServiceClient(conn), config: &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: namespace, Uid: uid},
		Labels:       all,
		LogDirectory: filepath.Join(b.dir, "pods", uid),
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    "/" + b.Namespace + "/kubepods/pod" + uid,
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE}},
		},
	}}
	b.pods = append(b.pods, p)
	p.awaitImage(ctx)
	made, err := p.cri.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: p.config})
	if err != nil {
		b.t.Fatalf("pod %s: %v", name, err)
	}
	p.ID = made.PodSandboxId
	return p
}

// awaitImage waits until CRI knows of the image, which it is told of: it would ask a registry for it else.
func (p *Pod) awaitImage(ctx context.Context) {
	p.box.t.Helper()
	images := cri.NewImageServiceClient(p.conn)
	for {
		status, err := images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: ImageName}})
		if err != nil {
			p.box.t.Fatalf("the image, over CRI: %v", err)
		}
		if status.Image != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func podLabels(namespace, name, uid string) map[string]string {
	return map[string]string{"io.kubernetes.pod.namespace": namespace, "io.kubernetes.pod.name": name, "io.kubernetes.pod.uid": uid}
}

// Create makes a container in the pod, which does not run yet, and returns its id. attempt is how often it was made before.
func (p *Pod) Create(name string, attempt uint32, argv ...string) string {
	p.box.t.Helper()
	ctx, cancel := p.box.context()
	defer cancel()
	m := p.config.Metadata
	labels := podLabels(m.Namespace, m.Name, m.Uid)
	labels["io.kubernetes.container.name"] = name
	made, err := p.cri.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId: p.ID, SandboxConfig: p.config,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: name, Attempt: attempt}, Labels: labels,
			Image: &cri.ImageSpec{Image: ImageName}, Command: argv, LogPath: fmt.Sprintf("%s-%d.log", name, attempt),
			Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE}}},
		},
	})
	if err != nil {
		p.box.t.Fatalf("container %s of pod %s: %v", name, m.Name, err)
	}
	return made.ContainerId
}

// Start starts one of the pod's containers.
func (p *Pod) Start(id string) {
	p.box.t.Helper()
	ctx, cancel := p.box.context()
	defer cancel()
	if _, err := p.cri.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id}); err != nil {
		p.box.t.Fatalf("start container %s: %v", id, err)
	}
}

// Stop ends one of the pod's containers.
func (p *Pod) Stop(id string) {
	p.box.t.Helper()
	ctx, cancel := p.box.context()
	defer cancel()
	if _, err := p.cri.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: 1}); err != nil {
		p.box.t.Fatalf("stop container %s: %v", id, err)
	}
}

// Wait waits until one of the pod's containers has ended, and returns its exit status.
func (p *Pod) Wait(id string) int {
	p.box.t.Helper()
	ctx, cancel := p.box.context()
	defer cancel()
	for {
		now, err := p.cri.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			p.box.t.Fatalf("status of container %s: %v", id, err)
		}
		if now.Status.State == cri.ContainerState_CONTAINER_EXITED {
			return int(now.Status.ExitCode)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Output is what a container has printed, as kubelet would find it: each line with its time and its stream.
func (p *Pod) Output(name string, attempt uint32) string {
	text, err := os.ReadFile(filepath.Join(p.config.LogDirectory, fmt.Sprintf("%s-%d.log", name, attempt)))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text))
}

// removePods removes every pod with its containers, which their cgroups go with.
func (b *Box) removePods() {
	for _, p := range b.pods {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		if p.ID != "" {
			if _, err := p.cri.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
				b.t.Errorf("stop pod %s: %v", p.ID, err)
			}
			if _, err := p.cri.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.ID}); err != nil {
				b.t.Errorf("remove pod %s: %v", p.ID, err)
			}
		}
		cancel()
		_ = p.conn.Close()
	}
}
