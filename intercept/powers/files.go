package powers

import (
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// engines are who makes containers at a socket's request: one without a redirect on it, for whoever asks.
var engines = []string{
	"docker.sock", "containerd/containerd.sock", "k3s/containerd/containerd.sock", "podman/podman.sock", "crio/crio.sock", "buildkit/buildkitd.sock",
	"libvirt/libvirt-sock",
}

// managers are the paths of who starts programs for the process's user, outside of the cgroup of whoever asks: the user's own systemd, and
// for root the host's.
func managers(p *process) []string {
	own := path.Join("/run/user", strconv.Itoa(p.uid))
	all := []string{path.Join(own, "systemd/private"), path.Join(own, "bus")}
	if p.hostRoot() {
		all = append(all, "/run/systemd/private", "/run/dbus/system_bus_socket", "/var/run/dbus/system_bus_socket")
	}
	return all
}

// sockets are those of container engines, of systemd, and the daemon's own, that it can connect to.
func (h Host) sockets(p *process) []Power {
	root, err := unix.Open(filepath.Join(h.Proc, strconv.Itoa(p.pid), "root"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil // it has ended
	}
	defer func() { _ = unix.Close(root) }()
	var all []Power
	seen := make(map[[2]uint64]bool)
	add := func(at, means, wayOut string) {
		st, ok := socketAt(root, at)
		if id := [2]uint64{st.Dev, st.Ino}; ok && !seen[id] && p.open(&st) {
			seen[id] = true
			all = append(all, Power{Name: at, Means: means, WayOut: wayOut})
		}
	}
	if h.Socket != "" {
		add(h.Socket, "it may tell sluice to detach it, and to use its credentials as it likes", "do not mount it into an agent; keep the agent's user out of the group that may use it")
	}
	for _, at := range candidates(p) {
		add(at, "whoever can talk to it starts containers that are not attached, privileged ones among them, and is the host's root",
			"do not mount it into an agent; keep the agent's user out of the group that may use it")
	}
	for _, at := range managers(p) {
		add(at, "whoever can talk to it has systemd start programs for its user (systemd-run), outside of the target's cgroup: those are not attached",
			"run the agent as a user of its own that has no session and no lingering (loginctl disable-linger), or where the socket is not: in a container, or with systemd's InaccessiblePaths="+path.Dir(at))
	}
	return all
}

// candidates are the paths where such sockets may be: the usual ones, and those by the same names below or at what is mounted.
func candidates(p *process) []string {
	all := []string{"/var/lib/lxd/unix.socket", "/var/snap/lxd/common/lxd/unix.socket", "/var/lib/incus/unix.socket"}
	below := func(dir string) {
		for _, e := range engines {
			all = append(all, path.Join(dir, e))
		}
	}
	below("/run")
	below("/var/run")
	below(path.Join("/run/user", strconv.Itoa(p.uid)))
	for _, m := range p.mounts {
		for _, e := range engines {
			if name := path.Base(e); path.Base(m.at) == name || path.Base(m.root) == name {
				all = append(all, m.at)
			}
		}
		switch m.kind {
		case "proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2", "bpf":
			continue
		}
		below(m.at)
		below(path.Join(m.at, "run"))
		below(path.Join(m.at, "var/run"))
	}
	return all
}

// socketAt looks at a path as a process with that root would; links lead nowhere else.
func socketAt(root int, at string) (st unix.Stat_t, ok bool) {
	fd, err := unix.Openat2(root, strings.TrimPrefix(at, "/"), &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return st, false
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Fstat(fd, &st); err != nil {
		return st, false
	}
	return st, st.Mode&unix.S_IFMT == unix.S_IFSOCK
}

// escape is the nearest cgroup above the target's that the process may move itself into, as far as its mounts show it, or "".
// Who may move a process is who may write the cgroup.procs of the common ancestor (cgroups(7), "Delegation containment").
func (h Host) escape(p *process, cgroup string) string {
	target, ok := strings.CutPrefix(cgroup, h.Mount)
	if !ok {
		return ""
	}
	for at := target; at != "/" && at != "." && at != ""; {
		at = path.Dir(at)
		var st unix.Stat_t
		if unix.Stat(filepath.Join(h.Mount, at, "cgroup.procs"), &st) != nil || !p.open(&st) {
			continue
		}
		for _, m := range p.mounts {
			// Seen from the host's cgroup namespace a mount's root is the cgroup that it shows.
			if m.kind == "cgroup2" && m.writable && within(at, m.root) {
				return filepath.Join(h.Mount, at)
			}
		}
	}
	return ""
}

func within(at, root string) bool {
	return root == "/" || at == root || strings.HasPrefix(at, root+"/")
}

// bpffs is where the process may write to the file system that the pins are on, or "".
func (h Host) bpffs(p *process) string {
	var pins unix.Stat_t
	if h.PinDir == "" || !p.hostRoot() || unix.Stat(h.PinDir, &pins) != nil {
		return ""
	}
	for _, m := range p.mounts {
		if m.kind == "bpf" && m.writable && m.device == pins.Dev {
			return m.at
		}
	}
	return ""
}
