package main

import (
	"context"
	"os"

	"github.com/sluice-proxy/sluice/intercept/container"
)

// checkContainers looks whether containers can be attached by name, and from their first connect on.
func checkContainers(ctx context.Context, cfg containersConfig) []finding {
	const check = "containers"
	finder := container.New(container.Options{Containerd: cfg.Containerd, Docker: cfg.Docker})
	defer finder.Close()
	found, err := finder.Check(ctx)
	switch {
	case err != nil:
		return []finding{warn(check, "start the daemon, or set its socket in [containers] of the configuration", "%s", err)}
	case found == "":
		return []finding{ok(check, "neither containerd nor Docker is here: there are none to attach")}
	}
	findings := []finding{ok(check, "can be attached by name: %s", found)}
	if len(cfg.HoldStarts) == 0 || os.Geteuid() != 0 {
		return findings
	}
	if err := container.CheckHold(cfg.HoldStarts); err != nil {
		return append(findings, warn(check, "name your runtime's executable in hold_starts of [containers]; the kernel needs CONFIG_FANOTIFY_ACCESS_PERMISSIONS",
			"what a container does first may not be intercepted: %s", err))
	}
	return findings
}
