package powers

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/scripts/containerbox"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host is where the tests' processes are. AF_VSOCK is left to its own test: it depends on the machine.
func host(t testing.TB, cgroup string) Host {
	t.Helper()
	mount := cgroup
	for {
		var up unix.Statfs_t
		if must(t, unix.Statfs(filepath.Dir(mount), &up)); up.Type != unix.CGROUP2_SUPER_MAGIC {
			return Host{Mount: mount}
		}
		mount = filepath.Dir(mount)
	}
}

// names are what a process can do, without AF_VSOCK.
func names(t testing.TB, h Host, cgroup string, pid int) []string {
	t.Helper()
	found, err := h.Of(cgroup, []int{pid})
	must(t, err)
	var all []string
	for _, p := range found {
		if p.Means == "" || p.WayOut == "" || strings.ContainsAny(p.Means+p.WayOut, "\n") || !slices.Equal(p.PIDs, []int{pid}) {
			t.Errorf("%+v: one line each, of process %d", p, pid)
		}
		if p.Name != "AF_VSOCK" {
			all = append(all, p.Name)
		}
	}
	return all
}

// socket makes one that is called like a container engine's.
func socket(t testing.TB, path string, mode os.FileMode) string {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	l, err := net.Listen("unix", path)
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	must(t, os.Chmod(path, mode))
	return path
}

func bind(from, to, access string) oci.SpecOpts {
	return oci.WithMounts([]specs.Mount{{Destination: to, Type: "bind", Source: from, Options: []string{"rbind", access}}})
}

// bounding leaves a capability to programs that give it.
func bounding(name string) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{name}}
		return nil
	}
}

// TestContainers goes through what makes a container a bad place for an agent, one thing at a time, each added to
// what a container that has nothing is.
func TestContainers(t *testing.T) {
	box := containerbox.New(t, containerbox.Options{})
	dir, err := os.MkdirTemp("", "pw") // short, for the sockets' sake
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	bare := []oci.SpecOpts{
		oci.WithCapabilities(nil), oci.WithNoNewPrivileges,
		oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.CgroupNamespace}),
	}
	// Root of the host, if in namespaces of its own: there is no way out but another user.
	const root = "the host's user namespace"
	daemon := socket(t, filepath.Join(dir, "s"), 0o600)
	docker := socket(t, filepath.Join(dir, "d", "docker.sock"), 0o660)
	deep := socket(t, filepath.Join(dir, "r", "containerd", "containerd.sock"), 0o660)
	podman := socket(t, filepath.Join(dir, "p", "podman", "podman.sock"), 0o666)
	crio := socket(t, filepath.Join(dir, "q", "crio.sock"), 0o660)
	systemd := socket(t, filepath.Join(dir, "m", "systemd", "private"), 0o755)
	must(t, os.Chown(systemd, 1000, 1000))
	bus := socket(t, filepath.Join(dir, "b"), 0o666)
	pins := filepath.Join(kerneltest.BPFFS(t), "sluice")
	must(t, os.Mkdir(pins, 0o700))
	other := kerneltest.BPFFS(t)
	mount := host(t, kerneltest.Cgroup(t)).Mount
	netns := kerneltest.NetNS(t)
	for name, c := range map[string]struct {
		uid  uint32
		net  string // "" is one of its own
		spec []oci.SpecOpts
		want []string
	}{
		"nothing":             {uid: 1000},
		"root":                {want: []string{root}},
		"CAP_NET_RAW":         {spec: []oci.SpecOpts{oci.WithCapabilities([]string{"CAP_NET_RAW"})}, want: []string{"CAP_NET_RAW", root}},
		"CAP_NET_ADMIN":       {spec: []oci.SpecOpts{oci.WithCapabilities([]string{"CAP_NET_ADMIN"})}, want: []string{"CAP_NET_ADMIN", root}},
		"CAP_SYS_ADMIN":       {spec: []oci.SpecOpts{oci.WithCapabilities([]string{"CAP_SYS_ADMIN"})}, want: []string{"CAP_SYS_ADMIN", root}},
		"CAP_BPF and PERFMON": {spec: []oci.SpecOpts{oci.WithCapabilities([]string{"CAP_BPF", "CAP_PERFMON"})}, want: []string{"CAP_BPF", "CAP_PERFMON", root}},
		"CAP_SYS_PTRACE":      {spec: []oci.SpecOpts{oci.WithCapabilities([]string{"CAP_SYS_PTRACE"})}, want: []string{"CAP_SYS_PTRACE", root}},
		"a harmless one":      {spec: []oci.SpecOpts{oci.WithCapabilities([]string{"CAP_CHOWN"})}, want: []string{root}},
		"obtainable": {
			uid: 1000, spec: []oci.SpecOpts{bounding("CAP_NET_RAW"), oci.WithNewPrivileges},
			want: []string{"set-user-ID programs"},
		},
		"host network":    {uid: 1000, net: "host", want: []string{"the host's network namespace"}},
		"host processes":  {uid: 1000, spec: []oci.SpecOpts{oci.WithHostNamespace(specs.PIDNamespace)}, want: []string{"the host's process namespace"}},
		"host cgroups":    {spec: []oci.SpecOpts{oci.WithHostNamespace(specs.CgroupNamespace)}, want: []string{root, "the host's cgroup namespace"}},
		"docker.sock":     {spec: []oci.SpecOpts{bind(docker, "/var/run/docker.sock", "ro")}, want: []string{root, "/var/run/docker.sock"}},
		"another's name":  {spec: []oci.SpecOpts{bind(docker, "/engine", "rw")}, want: []string{root, "/engine"}},
		"its directory":   {spec: []oci.SpecOpts{bind(filepath.Join(dir, "r"), "/host", "rw")}, want: []string{root, "/host/containerd/containerd.sock"}},
		"podman, by all":  {uid: 1000, spec: []oci.SpecOpts{bind(podman, "/run/podman/podman.sock", "rw")}, want: []string{"/run/podman/podman.sock"}},
		"crio":            {spec: []oci.SpecOpts{bind(crio, "/run/crio.sock", "rw")}, want: []string{root, "/run/crio.sock"}},
		"LXD":             {uid: 1000, spec: []oci.SpecOpts{bind(bus, "/var/lib/lxd/unix.socket", "rw")}, want: []string{"/var/lib/lxd/unix.socket"}},
		"of another user": {uid: 1000, spec: []oci.SpecOpts{bind(docker, "/var/run/docker.sock", "rw"), bind(deep, "/run/containerd/containerd.sock", "rw")}},
		"of the group": {
			uid: 1000, spec: []oci.SpecOpts{bind(docker, "/var/run/docker.sock", "rw"), oci.WithAppendAdditionalGroups("0")},
			want: []string{"/var/run/docker.sock"},
		},
		"the user's systemd": {
			uid: 1000, spec: []oci.SpecOpts{bind(systemd, "/run/user/1000/systemd/private", "rw"), bind(bus, "/run/user/1000/bus", "rw")},
			want: []string{"/run/user/1000/systemd/private", "/run/user/1000/bus"},
		},
		"another user's systemd": {uid: 1001, spec: []oci.SpecOpts{bind(filepath.Join(dir, "m"), "/run/user/1001", "rw")}},
		"the host's bus":         {spec: []oci.SpecOpts{bind(bus, "/run/dbus/system_bus_socket", "rw")}, want: []string{root, "/run/dbus/system_bus_socket"}},
		"the host's bus, as a user": {
			uid: 1000, spec: []oci.SpecOpts{bind(bus, "/run/dbus/system_bus_socket", "rw")},
		},
		"sluice's socket": {spec: []oci.SpecOpts{bind(daemon, daemon, "rw")}, want: []string{root, daemon}},
		"cgroup tree, writable": {
			spec: []oci.SpecOpts{bind(mount, "/mnt", "rw")}, want: []string{root, "writable cgroup file system"},
		},
		"cgroup tree, writable, as a user": {uid: 1000, spec: []oci.SpecOpts{bind(mount, "/mnt", "rw")}},
		"cgroup tree, read-only":           {spec: []oci.SpecOpts{bind(mount, "/mnt", "ro")}, want: []string{root}},
		"pins":                             {spec: []oci.SpecOpts{bind(filepath.Dir(pins), "/sys/fs/bpf", "rw")}, want: []string{root, "BPF file system"}},
		"pins, read-only":                  {spec: []oci.SpecOpts{bind(filepath.Dir(pins), "/sys/fs/bpf", "ro")}, want: []string{root}},
		"another BPF file system":          {spec: []oci.SpecOpts{bind(other, "/sys/fs/bpf", "rw")}, want: []string{root}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.net == "" {
				c.net = netns
			} else {
				c.net = ""
			}
			id := strings.Join(strings.FieldsFunc(name, func(r rune) bool { return strings.ContainsRune(" ,_.'", r) }), "-")
			x := box.Run(id, containerbox.ContainerOptions{UID: c.uid, NetNS: c.net, Spec: slices.Concat(bare, c.spec)})
			defer x.Remove()
			h := Host{PinDir: pins, Socket: daemon, Mount: mount}
			if got := names(t, h, x.Cgroup(), x.PID()); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	t.Run("privileged", func(t *testing.T) {
		x := box.Run("privileged", containerbox.ContainerOptions{Spec: []oci.SpecOpts{
			oci.WithPrivileged, oci.WithHostNamespace(specs.PIDNamespace), oci.WithHostNamespace(specs.CgroupNamespace),
			bind(mount, "/mnt", "rw"), bind(docker, "/var/run/docker.sock", "rw"),
		}})
		defer x.Remove()
		got := names(t, Host{PinDir: pins, Mount: mount}, x.Cgroup(), x.PID())
		for _, want := range []string{
			"privileged", "CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_SYS_MODULE", "the host's network namespace",
			"the host's process namespace", root, "the host's cgroup namespace", "/var/run/docker.sock", "writable cgroup file system",
		} {
			if !slices.Contains(got, want) {
				t.Errorf("no %q in %q", want, got)
			}
		}
	})
	t.Run("the runtime's defaults", func(t *testing.T) {
		x := box.Run("defaults", containerbox.ContainerOptions{NetNS: netns})
		defer x.Remove()
		if got := names(t, Host{Mount: mount}, x.Cgroup(), x.PID()); !slices.Contains(got, "CAP_NET_RAW") || slices.Contains(got, "CAP_NET_ADMIN") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("a user namespace of its own", func(t *testing.T) {
		must(t, os.Chmod(filepath.Dir(box.Socket), 0o711)) // its root is nobody here, and has to get to its files
		for owned, want := range map[bool][]string{false: nil, true: {"CAP_NET_RAW"}} {
			spec := slices.Concat(bare, []oci.SpecOpts{
				oci.WithCapabilities([]string{"CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_BPF"}),
				oci.WithUserNamespace([]specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}, []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}),
				bind(docker, "/tmp/docker.sock", "rw"), bind(mount, "/tmp/cgroup", "rw"),
			})
			net := netns
			if owned { // a network namespace made in the user namespace is the user namespace's
				net = ""
				spec = append(spec, oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace}))
			} else { // who may not have the network may not mount its sysfs
				spec = append(spec, oci.WithoutMounts("/sys", "/sys/fs/cgroup"))
			}
			x := box.Run(fmt.Sprintf("userns-%t", owned), containerbox.ContainerOptions{NetNS: net, Snapshotter: "native", Spec: spec})
			if got := names(t, Host{PinDir: pins, Mount: mount}, x.Cgroup(), x.PID()); !slices.Equal(got, want) {
				t.Errorf("with a network of its own %t: got %q, want %q", owned, got, want)
			}
			x.Remove()
		}
	})
}

// start runs a process of the host's in a cgroup.
func start(t *testing.T, cgroup string, attr *syscall.SysProcAttr, argv ...string) int {
	t.Helper()
	f, err := os.Open(cgroup)
	must(t, err)
	defer f.Close()
	attr.UseCgroupFD, attr.CgroupFD = true, int(f.Fd())
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = attr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	// It has become what it is to be when it echoes.
	_, err = in.Write([]byte("x"))
	must(t, err)
	_, err = out.Read(make([]byte, 1))
	must(t, err)
	return cmd.Process.Pid
}

// TestProcesses looks at bare processes: units, cgroups and process ids are these.
func TestProcesses(t *testing.T) {
	cgroup := kerneltest.Cgroup(t)
	h := host(t, cgroup)
	const net, pid = "the host's network namespace", "the host's process namespace"
	t.Run("root of the host", func(t *testing.T) {
		got := names(t, h, cgroup, start(t, cgroup, &syscall.SysProcAttr{}, "cat"))
		for _, want := range []string{"CAP_NET_RAW", "CAP_SYS_ADMIN", net, pid, "the host's mount namespace", "the host's user namespace", "the host's cgroup namespace", "writable cgroup file system"} {
			if !slices.Contains(got, want) {
				t.Errorf("no %q in %q", want, got)
			}
		}
	})
	user := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65533, Gid: 65533}}
	t.Run("a user who cannot become more", func(t *testing.T) {
		pid1 := start(t, cgroup, user, "setpriv", "--no-new-privs", "cat")
		if got := names(t, h, cgroup, pid1); !slices.Equal(got, []string{net, pid}) {
			t.Errorf("got %q", got)
		}
	})
	t.Run("a user who can", func(t *testing.T) {
		if got := names(t, h, cgroup, start(t, cgroup, user, "cat")); !slices.Contains(got, "set-user-ID programs") || slices.Contains(got, "CAP_NET_RAW") {
			t.Errorf("got %q", got)
		}
	})
	// A user's systemd owns the cgroups below the user's slice: what it may write to is a way out for all below.
	t.Run("a tree that is the user's own", func(t *testing.T) {
		leaf := filepath.Join(cgroup, "app", "agent")
		must(t, os.MkdirAll(leaf, 0o755))
		pid1 := start(t, leaf, user, "setpriv", "--no-new-privs", "cat")
		must(t, os.Chown(filepath.Join(leaf, "cgroup.procs"), 65533, 65533)) // its own alone leads nowhere
		if got := names(t, h, leaf, pid1); slices.Contains(got, "writable cgroup file system") {
			t.Errorf("its own: got %q", got)
		}
		must(t, os.Chown(filepath.Join(cgroup, "cgroup.procs"), 65533, 65533))
		found, err := h.Of(leaf, []int{pid1})
		must(t, err)
		i := slices.IndexFunc(found, func(p Power) bool { return p.Name == "writable cgroup file system" })
		if i < 0 || !strings.Contains(found[i].Means, cgroup+"/cgroup.procs") {
			t.Errorf("the one above: got %+v", found)
		}
	})
	t.Run("one that has ended", func(t *testing.T) {
		cmd := exec.Command("true")
		must(t, cmd.Run())
		if got, err := h.Of(cgroup, []int{cmd.Process.Pid}); err != nil || len(got) != 0 {
			t.Errorf("got %v, %v", got, err)
		}
	})
	t.Run("case_17_vsock", func(t *testing.T) {
		if !haveVsock() {
			t.Log("this kernel has no AF_VSOCK: nothing to warn of")
		}
		for filter, want := range map[string]bool{"cat": haveVsock(), "filtered": false} {
			argv := []string{"cat"}
			if filter == "filtered" {
				argv = []string{"python3", "-c", underFilter}
			}
			found, err := h.Of(cgroup, []int{start(t, cgroup, &syscall.SysProcAttr{}, argv...)})
			must(t, err)
			if got := slices.ContainsFunc(found, func(p Power) bool { return p.Name == "AF_VSOCK" }); got != want {
				t.Errorf("%s: warned %t, want %t", filter, got, want)
			}
		}
	})
}

// underFilter puts a seccomp filter on itself that allows all, and then is cat.
const underFilter = `
import ctypes, os, struct
code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7fff0000))
prog = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 1, ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.c_void_p(ctypes.addressof(prog)), 0, 0) == 0, ctypes.get_errno()
os.execvp("cat", ["cat"])
`

// TestRootInAContainer tries what gets root out of its cgroup. A privileged container shows that the tries are good.
func TestRootInAContainer(t *testing.T) {
	box := containerbox.New(t, containerbox.Options{})
	tries := map[string]string{
		"mount the cgroup tree":         "mkdir -p /tmp/c && mount -t cgroup2 none /tmp/c",
		"move to the root cgroup":       "mkdir -p /tmp/d && mount -t cgroup2 none /tmp/d && echo $$ >/tmp/d/cgroup.procs",
		"mount the BPF file system":     "mkdir -p /tmp/b && mount -t bpf none /tmp/b",
		"make a mount namespace":        "unshare -m true",
		"make another cgroup's subtree": "mkdir -p /tmp/e && mount -t cgroup2 none /tmp/e && mkdir /tmp/e/sluice-test-made && rmdir /tmp/e/sluice-test-made",
	}
	for name, c := range map[string]struct {
		spec  []oci.SpecOpts
		works bool
	}{
		"the runtime's defaults": {nil, false},
		"privileged":             {[]oci.SpecOpts{oci.WithPrivileged, oci.WithHostNamespace(specs.CgroupNamespace)}, true},
	} {
		t.Run(name, func(t *testing.T) {
			x := box.Run(strings.Fields(name)[0], containerbox.ContainerOptions{NetNS: kerneltest.NetNS(t), Spec: c.spec})
			defer x.Remove()
			for what, script := range tries {
				if said, code := x.Exec(0, "sh", "-c", script); (code == 0) != c.works {
					t.Errorf("%s: %d, %s", what, code, said)
				}
			}
			// What is mounted already cannot be written to.
			if said, code := x.Exec(0, "sh", "-c", "for f in $(find /sys/fs/cgroup -name cgroup.procs); do echo $$ >$f && exit 1; done 2>/dev/null; exit 0"); code != 0 && !c.works {
				t.Errorf("write to a cgroup: %s", said)
			}
		})
	}
}
