package main

import (
	"fmt"

	"github.com/sluice-proxy/sluice/intercept/guard"
)

// checkGuard says by what links are guarded on this host, and what else could do it.
func checkGuard(mode string, supported []guard.Support) finding {
	const check = "guard"
	if mode == guardOff {
		return warn(check, `set guard = "on" in the configuration`, "off: frames that an agent with CAP_NET_RAW makes itself are not seen")
	}
	var there, lacking []string
	for _, s := range supported {
		if s.Err == nil {
			there = append(there, string(s.Backend))
		} else {
			lacking = append(lacking, fmt.Sprintf("%s (Linux %s): %s", s.Backend, s.MinKernel, s.Err))
		}
	}
	switch {
	case len(there) == 0:
		return warn(check, "boot a kernel with CONFIG_NET_XGRESS, or CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF",
			"links cannot be guarded: %s", list(lacking))
	case there[0] == string(guard.NFTables):
		return warn(check, "boot a kernel with CONFIG_NET_XGRESS, or CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF, and give agents no CAP_NET_RAW",
			"by nftables, which sees no frames of packet sockets; not there: %s", list(lacking))
	case len(lacking) > 0:
		return ok(check, "%s, by %s; not there: %s", mode, there[0], list(lacking))
	}
	return ok(check, "%s, by %s; this kernel has %s, too", mode, there[0], list(there[1:]))
}
