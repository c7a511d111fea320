package main

import (
	"crypto/x509"
	"encoding/pem"
	"slices"
	"time"

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
				findings = append(findings, warn(check, "mend or unmount that file system, or end what uses it; "+abortFUSE, "%s: %s", called(t), t.Reason))
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

// checkAuthority names the CAs that are not valid yet and have no successor.
func checkAuthority(bundle []byte, now time.Time) []finding {
	var early []*x509.Certificate
	var covered []string
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil:
		case now.Before(c.NotBefore):
			early = append(early, c)
		case now.Before(c.NotAfter):
			covered = append(covered, c.PermittedDNSDomains...)
		}
	}
	var findings []finding
	for _, c := range early {
		if slices.ContainsFunc(c.PermittedDNSDomains, func(host string) bool { return !slices.Contains(covered, host) }) {
			findings = append(findings, warn("ca", "set the clock if it is wrong; if it is right, restart the daemon, which makes another CA, and then the agents",
				"%s is not valid before %s: the clock was ahead when it was made, or is behind now", c.Subject.CommonName, c.NotBefore.UTC().Format(time.RFC3339)))
		}
	}
	return findings
}
