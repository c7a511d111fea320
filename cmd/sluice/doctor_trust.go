package main

import (
	"github.com/sluice-proxy/sluice/control/api"
	"github.com/sluice-proxy/sluice/monitor/notice"
)

// checkTrust names the processes that do not trust sluice's CA, with the way out.
func checkTrust(targets []api.Target) []finding {
	const check = "trust"
	var findings []finding
	attached := 0
	for _, t := range targets {
		if t.State == api.TargetStateAttached {
			attached++
			if t.Reason != "" {
				findings = append(findings, warn(check, "mend or unmount that file system, or end what uses it", "%s: %s", called(t), t.Reason))
			}
		}
		for _, u := range t.Untrusting {
			findings = append(findings, warn(check, u.WayOut, "in %s, %s: its requests to bound hosts fail", called(t), untrusting(u)))
		}
	}
	if len(findings) == 0 && attached > 0 {
		findings = append(findings, ok(check, "no process in %s is known not to trust the CA", notice.Count(attached, "target")))
	}
	return findings
}
