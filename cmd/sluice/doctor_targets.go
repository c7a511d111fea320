package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/control/api"
	"github.com/sluice-proxy/sluice/intercept/powers"
	"github.com/sluice-proxy/sluice/monitor/notice"
)

// abortFUSE is the way out where neither helps: who waits for such an answer cannot be killed.
const abortFUSE = "a FUSE file system whose server does not answer is let go with 'echo 1 > /sys/fs/fuse/connections/N/abort', where N is the one that 'waiting' there is not 0 of"

func checkTargets(targets []api.Target, err error) []finding {
	const check = "targets"
	if err != nil {
		return []finding{failed(check, "look at the daemon's log", "%s", err)}
	}
	var findings []finding
	for _, t := range targets {
		switch t.State {
		case api.TargetStateFailed:
			findings = append(findings, failed(check, "mend that, then 'sluice detach "+t.Id+"' and attach it again",
				"%s is not attached: %s", called(t), t.Reason))
		case api.TargetStateNotInForce:
			findings = append(findings, failed(check, "find out who did that ('bpftool link' and 'bpftool cgroup show "+t.Cgroup+" effective' show what is there); the daemon puts "+
				"it back by itself, 'sluice attach --cgroup "+t.Cgroup+"' at once", "%s is not in force: %s", called(t), t.Reason))
		case api.TargetStateWatching:
			if t.Reason != "" {
				findings = append(findings, warn(check, "start containerd, or say where it is", "%s: %s", called(t), t.Reason))
			}
		case api.TargetStateWaiting:
			findings = append(findings, warn(check, "start it, or 'sluice detach "+t.Id+"'", "%s is not there: %s", called(t), t.Reason))
		}
	}
	if len(findings) == 0 {
		findings = append(findings, ok(check, "%d, all in force by the kernel's word", len(targets)))
	}
	for _, t := range targets {
		if t.Unserved {
			findings = append(findings, warn(check, servedBy(t), "%s: %s", called(t), unserved))
		}
	}
	return append(findings, checkTrust(targets)...)
}

// checkPins tells of what is pinned: what is left of cgroups that are gone, and what holds while no daemon runs.
func checkPins(pinDir string) []finding {
	const check = "pins"
	if os.Geteuid() != 0 {
		return nil
	}
	pinned, err := bpf.Pinned(pinDir)
	if err != nil {
		return []finding{failed(check, "'sudo sluice detach --all' removes them, and with them what is attached", "%s", err)}
	}
	var findings []finding
	live := 0
	for _, a := range pinned {
		if a.Live {
			live++
			continue
		}
		findings = append(findings, warn(check, "nothing to do: the daemon removes them, when it starts at the latest; so does 'sudo sluice detach --all'",
			"those of cgroup %d are of no use any more: the kernel has taken the programs off, because the cgroup is gone or somebody detached them", a.CgroupID))
	}
	if len(findings) == 0 && live > 0 {
		findings = append(findings, ok(check, "%s closed when no daemon runs", notice.Count(live, "cgroup")))
	}
	return findings
}

// checkPowers says what the targets' processes could do to get past the redirect.
func checkPowers(ctx context.Context, targets []api.Target, h powers.Host) []finding {
	const check = "agents"
	asked := powersAsked{Host: h}
	for _, t := range targets {
		if t.Cgroup != "" && (t.State == api.TargetStateAttached || t.State == api.TargetStateNotInForce) {
			asked.Cgroups = append(asked.Cgroups, t.Cgroup)
		}
	}
	if os.Geteuid() != 0 || len(asked.Cgroups) == 0 {
		return nil
	}
	all, err := lookApart(ctx, asked)
	if err != nil {
		return []finding{warn(check, "run 'sudo sluice doctor' on the host", "the targets' processes cannot be looked at: %s", err)}
	}
	var findings []finding
	looked := 0
	for _, t := range targets {
		if !slices.Contains(asked.Cgroups, t.Cgroup) {
			continue
		}
		found, in := all[t.Cgroup]
		switch {
		case !in:
			findings = append(findings, warn(check, "see which of its file systems (FUSE, NFS) hangs, and mend or unmount it; "+abortFUSE,
				"%s: its files do not answer, and what its processes could do is not known", called(t)))
		case found.Error != "":
			findings = append(findings, warn(check, "run 'sudo sluice doctor' on the host", "%s: its processes cannot be looked at: %s", called(t), found.Error))
		case !found.Gone:
			looked++
		}
		for _, p := range found.Powers {
			findings = append(findings, warn(check, p.WayOut, "%s: %s (%s): %s", called(t), p.Name, processes(p.PIDs), p.Means))
		}
	}
	if len(findings) == 0 && looked > 0 {
		findings = append(findings, ok(check, "no process in %s has a power that would get it past the redirect", notice.Count(looked, "target")))
	}
	return findings
}

// processes names a few.
func processes(pids []int) string {
	const most = 3
	var words []string
	for _, pid := range pids[:min(len(pids), most)] {
		words = append(words, strconv.Itoa(pid))
	}
	text := "process " + strings.Join(words, ", ")
	if rest := len(pids) - most; rest > 0 {
		text += fmt.Sprintf(" and %d more", rest)
	}
	return text
}
