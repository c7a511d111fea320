package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/control/api"
	"github.com/sluice-proxy/sluice/intercept/cgroup"
	"github.com/sluice-proxy/sluice/intercept/guard"
	"github.com/sluice-proxy/sluice/intercept/powers"
	"github.com/sluice-proxy/sluice/monitor/notice"
)

// finding is what doctor says about one thing.
type finding struct {
	Check  string `json:"check"`
	State  string `json:"state"` // OK, WARN or FAIL
	Detail string `json:"detail"`
	Mend   string `json:"mend,omitempty"`
}

const (
	findingOK   = "OK"
	findingWarn = "WARN"
	findingFail = "FAIL"
)

func ok(check, format string, args ...any) finding {
	return finding{Check: check, State: findingOK, Detail: fmt.Sprintf(format, args...)}
}

func warn(check, mend, format string, args ...any) finding {
	return finding{Check: check, State: findingWarn, Detail: fmt.Sprintf(format, args...), Mend: mend}
}

func failed(check, mend, format string, args ...any) finding {
	return finding{Check: check, State: findingFail, Detail: fmt.Sprintf(format, args...), Mend: mend}
}

func (c *cli) doctorCommand() *cobra.Command {
	var configFile, stateDir string
	cmd := &cobra.Command{
		Use: "doctor", Short: "Say what this host lacks, and how to mend it",
		Long: `Looks at the kernel, the mounts, the permissions, sluice's own files and their disk, and the daemon, at whether what is
attached is in force, and at what the agents' processes could do to get past it. A line is OK, WARN (it works,
but read it) or FAIL (it does not work); each of the last two says what to do. The exit status is 1 if anything fails.`,
		Args: arguments(),
		RunE: orAsRoot(func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(configFile)
			if err != nil {
				return err
			}
			if stateDir != "" {
				cfg.StateDir = stateDir
			}
			cfg.Socket = c.socketOf(cfg)
			findings := c.examine(cmd.Context(), cfg)
			for i := range findings {
				findings[i].Mend = strings.Replace(findings[i].Mend, "sudo sluice doctor", asRoot(cmd, nil), 1)
			}
			return c.report(findings)
		}),
	}
	cmd.Flags().StringVar(&configFile, "config", "", "configuration file (default "+defaultConfigFile+", if it is there)")
	cmd.Flags().StringVar(&stateDir, "state-dir", "", "where the daemon keeps its state (default: what the configuration says)")
	return cmd
}

func (c *cli) report(findings []finding) error {
	err := c.print(findings, func() {
		for _, f := range findings {
			// Pad first: a colour has a width of its own.
			fmt.Fprintf(c.stdout, "%s%s %s: %s\n", c.state(f.State), strings.Repeat(" ", 4-len(f.State)), f.Check, printable(f.Detail))
			if f.Mend != "" {
				fmt.Fprintf(c.stdout, "     %s\n", printable(f.Mend))
			}
		}
	})
	for _, f := range findings {
		if err == nil && f.State == findingFail {
			return statusError{exitFailed}
		}
	}
	return err
}

// examine looks at everything, in the order in which it has to work.
func (c *cli) examine(ctx context.Context, cfg config) []finding {
	findings := []finding{checkRoot(), checkCgroup(), checkBPFFS(cfg.PinDir), checkUnprivilegedBPF("/proc/sys/kernel/unprivileged_bpf_disabled")}
	if os.Geteuid() == 0 {
		findings = append(findings, checkKernel(bpf.Probe())...)
		findings = append(findings, checkGuard(cfg.Guard, guard.Probe()))
	}
	findings = append(findings, checkContainers(ctx, cfg.Containers)...)
	findings = append(findings, checkStateDir(cfg.StateDir)...)
	findings = append(findings, checkDisk(cfg.StateDir))
	findings = append(findings, checkPins(cfg.PinDir)...)
	return append(findings, c.checkDaemon(ctx, cfg)...)
}

// needed are the capabilities that the unit gives the daemon, by their number in
// include/uapi/linux/capability.h.
var needed = []struct {
	bit  int
	name string
}{
	{unix.CAP_CHOWN, "CAP_CHOWN"},
	{unix.CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE"},
	{unix.CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"},
	{unix.CAP_KILL, "CAP_KILL"},
	{unix.CAP_SETGID, "CAP_SETGID"},
	{unix.CAP_SETUID, "CAP_SETUID"},
	{unix.CAP_SETPCAP, "CAP_SETPCAP"},
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"},
	{unix.CAP_SYS_CHROOT, "CAP_SYS_CHROOT"},
	{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE"},
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"},
}

func checkRoot() finding {
	const check = "permissions"
	if os.Geteuid() != 0 {
		return failed(check, "run 'sudo sluice doctor'", "not root: the kernel cannot be asked what it can do")
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return warn(check, "mount /proc", "root; capabilities unknown: %s", err)
	}
	if missing := missingCapabilities(string(status)); len(missing) > 0 {
		return failed(check, "give the daemon these capabilities, or run it outside of the container that took them away",
			"root, but without %s", list(missing))
	}
	return ok(check, "root with all capabilities that are needed")
}

// missingCapabilities reads the line CapEff of /proc/PID/status (proc(5)).
func missingCapabilities(status string) []string {
	var missing []string
	_, rest, _ := strings.Cut(status, "\nCapEff:")
	line, _, _ := strings.Cut(rest, "\n")
	effective, _ := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	for _, capability := range needed {
		if effective&(1<<capability.bit) == 0 {
			missing = append(missing, capability.name)
		}
	}
	return missing
}

func checkCgroup() finding {
	const check = "cgroup v2"
	mount, err := cgroup.Mount()
	if err != nil {
		return failed(check, "mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with systemd.unified_cgroup_hierarchy=1", "%s", err)
	}
	return ok(check, "mounted on %s", mount)
}

func checkBPFFS(pinDir string) finding {
	const check = "bpffs"
	mounted, err := onBPFFS(pinDir)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return failed(check, "run 'sudo sluice doctor'", "%s: %s", pinDir, err)
	case err != nil:
		return failed(check, "see whether /sys is mounted", "%s: %s", pinDir, err)
	case !mounted:
		return warn(check, "nothing to do: 'sluice serve' mounts it; or 'mount -t bpf bpf /sys/fs/bpf'", "not mounted for %s", pinDir)
	}
	return ok(check, "mounted for %s", pinDir)
}

func checkUnprivilegedBPF(file string) finding {
	const check = "unprivileged bpf"
	value, err := os.ReadFile(file)
	if err != nil {
		return ok(check, "not known to this kernel")
	}
	if strings.TrimSpace(string(value)) == "0" {
		return warn(check, "sysctl kernel.unprivileged_bpf_disabled=2", "allowed: agents may load programs of their own, of limited kinds")
	}
	return ok(check, "not allowed")
}

// checkKernel says what the kernel cannot do; what it can is one line.
func checkKernel(features []bpf.Feature) []finding {
	const check = "kernel"
	var lacking []finding
	for _, f := range features {
		mend := "boot Linux " + f.MinKernel + " or newer"
		switch {
		case f.WayOut != "":
			mend = f.WayOut
		case !f.Missing(): // it could not be asked for
			mend = "ask again; if it stays, the journal of the kernel (dmesg) may say more"
		}
		why := strings.TrimRight(fmt.Sprint(f.Err), ": ") // what the verifier did not say
		switch {
		case f.Err == nil:
		case f.Optional:
			lacking = append(lacking, warn(check, mend, "it works, but without %s: %s", f.Name, why))
		default:
			lacking = append(lacking, failed(check, mend, "no %s: %s", f.Name, why))
		}
	}
	if len(lacking) > 0 {
		return lacking
	}
	var name unix.Utsname
	release := "this kernel"
	if unix.Uname(&name) == nil {
		release = "Linux " + unix.ByteSliceToString(name.Release[:])
	}
	return []finding{ok(check, "%s has all %d features", release, len(features))}
}

// checkStateDir looks at the files that hold secrets: nobody else may read them.
func checkStateDir(dir string) []finding {
	const check = "state"
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return []finding{ok(check, "%s is not there yet: the first start makes it", dir)}
	}
	if err != nil {
		return []finding{failed(check, "run 'sudo sluice doctor'", "%s", err)}
	}
	if !info.IsDir() {
		return []finding{failed(check, "move it away, or choose another --state-dir", "%s is no directory", dir)}
	}
	findings := openFiles(dir)
	if len(findings) == 0 {
		findings = append(findings, ok(check, "%s is readable by its owner only", dir))
	}
	return findings
}

// openFiles finds what others than the owner may read or write.
func openFiles(dir string) []finding {
	var findings []finding
	dir, err := filepath.EvalSymlinks(dir) // a link has no mode of its own, and is not walked
	if err != nil {
		return []finding{failed("state", "run 'sudo sluice doctor'", "%s", err)}
	}
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if info.Mode().Type() != fs.ModeSocket && info.Mode().Perm()&0o077 != 0 {
			findings = append(findings, failed("state", "chmod go= "+path, "%s has mode %04o", path, info.Mode().Perm()))
		}
		if entry.IsDir() && info.Mode().Perm()&0o077 == 0 && path == dir {
			return fs.SkipAll // whatever is inside, nobody else gets there
		}
		return nil
	})
	if err != nil {
		findings = append(findings, failed("state", "run 'sudo sluice doctor'", "%s", err))
	}
	return findings
}

func (c *cli) checkDaemon(ctx context.Context, cfg config) []finding {
	const check = "daemon"
	client, err := api.Dial(cfg.Socket) // of this host
	if err != nil {
		return []finding{failed(check, "give another --socket", "%s", err)}
	}
	defer client.Close()
	status, err := client.Status(ctx)
	var unreachable *api.UnreachableError
	if errors.As(err, &unreachable) && unreachable.NotRunning() {
		return []finding{warn(check, "start one with 'sudo sluice serve' or 'sudo systemctl start sluice'", "none answers on %s", cfg.Socket)}
	}
	const restart = "look at its log, and restart it"
	switch {
	case err == nil:
	case unreachable != nil && errors.Is(unreachable.Err, fs.ErrPermission):
		return []finding{failed(check, "run 'sudo sluice doctor'", "%s", err)}
	case errors.Is(err, context.DeadlineExceeded):
		return []finding{failed(check, restart, "the one on %s does not answer: it was stopped, or hangs", cfg.Socket)}
	default:
		return []finding{failed(check, restart, "%s", err)}
	}
	findings := []finding{ok(check, "answers on %s, %s, %s", cfg.Socket, notice.Count(status.Pools.Total, "pool"), notice.Count(status.Targets, "target"))}
	if own := build().Version; own != status.Build.Version {
		findings = append(findings, warn(check, "restart it: 'sudo systemctl restart sluice'",
			"it is release %s, this command is %s", status.Build.Version, own))
	}
	if bundle, err := client.CA(ctx); err == nil {
		findings = append(findings, checkAuthority(bundle, c.now())...)
	}
	targets, err := client.Targets(ctx)
	findings = append(findings, checkTargets(targets, err)...)
	return append(findings, checkPowers(ctx, targets, powers.Host{PinDir: cfg.PinDir, Socket: cfg.Socket})...)
}
