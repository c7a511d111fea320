package powers

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Power is one thing that some of a target's processes can do, and should not be able to.
type Power struct {
	Name   string // a capability, a namespace, a file
	Means  string // what it means for the redirect
	WayOut string // how to take it away
	PIDs   []int  // the processes that have it, as the host counts them
}

// Host is where the processes are.
type Host struct {
	Proc   string // "" is /proc
	PinDir string // sluice's on the BPF file system; "" is none
	Socket string // the daemon's; "" is none
	Mount  string // of cgroup v2
}

// Of looks at the processes of the cgroup at a path below h.Mount, and returns what each could do, one Power for each
// thing, in the order in which they should be taken away. Processes that end meanwhile are left out.
func (h Host) Of(cgroup string, pids []int) ([]Power, error) {
	if h.Proc == "" {
		h.Proc = "/proc"
	}
	var all []Power
	for _, pid := range pids {
		p, err := read(h.Proc, pid)
		if ended(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, found := range h.of(&p, cgroup) {
			i := slices.IndexFunc(all, func(x Power) bool { return x.Name == found.Name })
			if i < 0 {
				all, i = append(all, found), len(all)
			}
			all[i].PIDs = append(all[i].PIDs, pid)
		}
	}
	return all, nil
}

func (h Host) of(p *process, cgroup string) []Power {
	all := slices.Concat(privileged(p, h.Proc), capabilities(p), shared(p), h.sockets(p))
	if at := h.escape(p, cgroup); at != "" {
		all = append(all, Power{
			Name:   "writable cgroup file system",
			Means:  "it may write " + at + "/cgroup.procs, and so leave its cgroup: what it connects to from then on is not intercepted",
			WayOut: "mount it read-only, with a cgroup namespace (Docker's default, without --privileged and --cgroupns=host), or attach a cgroup that is not below one of the agent's own",
		})
	}
	if at := h.bpffs(p); at != "" {
		all = append(all, Power{
			Name:   "BPF file system",
			Means:  "it may remove sluice's pins at " + at + ", or change what is in its maps",
			WayOut: "do not mount " + at + " into it, or do not let it be root",
		})
	}
	if !p.seccomp && haveVsock() {
		all = append(all, Power{
			Name:   "AF_VSOCK",
			Means:  "it may talk to the hypervisor of this virtual machine over sockets that no hook sees; what forwards from there is past sluice",
			WayOut: "a seccomp filter without AF_VSOCK (Docker's default since 23.0; systemd: RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK)",
		})
	}
	return all
}

// privileged is what docker run --privileged makes.
func privileged(p *process, proc string) []Power {
	last, err := os.ReadFile(filepath.Join(proc, "sys/kernel/cap_last_cap"))
	var n uint
	if _, scan := fmt.Sscan(string(last), &n); err != nil || scan != nil || !p.host["user"] {
		return nil
	}
	// CAP_SYS_RESOURCE is taken from all of a host that is a virtual machine's guest, now and then: it is no hindrance.
	const immaterial = 1 << unix.CAP_SYS_RESOURCE
	if every := uint64(1)<<(n+1) - 1; (p.has|immaterial)&every != every {
		return nil
	}
	return []Power{{
		Name:   "privileged",
		Means:  "it has every capability of the host's root: nothing of what follows can be kept from it",
		WayOut: "run it without --privileged (Docker), privileged: true (Kubernetes), or as another user than root (systemd: User=)",
	}}
}

// capability is one that matters here.
type capability struct {
	bit     int
	name    string
	network bool // it counts for a network namespace that the process's user namespace owns, too
	means   string
}

func ranked() []capability {
	return []capability{
		{unix.CAP_NET_RAW, "CAP_NET_RAW", true, "it may send frames of its own making, which no connect hook sees: to bound ports only the guard on links drops them, which sees none where it is nftables or guard = \"off\""},
		{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", true, "it may change the links, routes and filters of its network namespace, the guard among them, and destroy the listener's socket: then its connects are refused until it is opened again"},
		{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", false, "it may mount the cgroup tree, enter other namespaces and take programs off: it can leave"},
		{unix.CAP_BPF, "CAP_BPF", false, "it may load BPF programs, and with CAP_NET_ADMIN put some after sluice's that undo what those do"},
		{unix.CAP_PERFMON, "CAP_PERFMON", false, "it may trace the kernel and other processes, and read secrets as they pass"},
		{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE", false, "it may take over processes that it sees, and take sockets from them (pidfd_getfd): one outside of the cgroup is not intercepted"},
		{unix.CAP_SYS_MODULE, "CAP_SYS_MODULE", false, "it may load code into the kernel"},
		{unix.CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH", false, "it may open the host's files by their handles, sluice's state among them"},
	}
}

func dropping(names string) string {
	return "docker run --cap-drop " + strings.ReplaceAll(names, "CAP_", "") + ", Kubernetes capabilities.drop, systemd CapabilityBoundingSet=~" + names
}

func capabilities(p *process) []Power {
	var all []Power
	var obtainable []string
	for _, c := range ranked() {
		if !p.host["user"] && (!c.network || !p.ownNet) {
			continue // it counts inside the process's user namespace only
		}
		switch {
		case p.cap(c.bit):
			all = append(all, Power{Name: c.name, Means: c.means, WayOut: dropping(c.name)})
		case p.may&(1<<c.bit) != 0 && !p.noNewPriv:
			obtainable = append(obtainable, c.name)
		}
	}
	if len(obtainable) > 0 {
		all = append(all, Power{
			Name:   "set-user-ID programs",
			Means:  "one that it can run may give it " + strings.Join(obtainable, ", "),
			WayOut: "no_new_privs (docker run --security-opt no-new-privileges, Kubernetes allowPrivilegeEscalation: false, systemd NoNewPrivileges=yes)",
		})
	}
	return all
}

// shared are the namespaces of the host that it is in. The last three give nothing to one who is not the host's root.
func shared(p *process) []Power {
	var all []Power
	for _, ns := range []struct {
		key, name, means, wayOut string
		root                     bool
	}{
		{"net", "the host's network namespace", "proxies that others have on the host's loopback are within its reach, and forward from outside of its cgroup; no other host's traffic is intercepted for it", "give it a network of its own (Docker: not --network host; Kubernetes: hostNetwork: false; systemd: PrivateNetwork= with a link of its own)", false},
		{"pid", "the host's process namespace", "it sees processes outside of its cgroup, and may trace those of its own user and take sockets from them (pidfd_getfd)", "Docker: not --pid host; Kubernetes: hostPID: false; else a user of its own, and kernel.yama.ptrace_scope=1 or more", false},
		{"mnt", "the host's mount namespace", "as root it has the host's files: sockets of container engines, the cgroup tree, sluice's pins and state", "run it as another user, or in a container", true},
		{"user", "the host's user namespace", "its root is the host's root", "run it as another user, or with user namespaces (Docker: userns-remap; Kubernetes: hostUsers: false)", true},
		{"cgroup", "the host's cgroup namespace", "it sees the whole cgroup tree; where it may write to it, it may leave", "Docker: --cgroupns private", true},
	} {
		if p.host[ns.key] && (!ns.root || p.hostRoot()) {
			all = append(all, Power{Name: ns.name, Means: ns.means, WayOut: ns.wayOut})
		}
	}
	return all
}

// haveVsock tells whether this kernel gives sockets to the hypervisor.
func haveVsock() bool {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	_ = unix.Close(fd)
	return true
}
