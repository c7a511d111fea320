package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluice-proxy/sluice/control/api"
)

// attachFlags say what to attach to.
type attachFlags struct {
	cgroup, unit, container, namespace, selector string
	pid                                          int
	pools                                        []string
	keep                                         bool
}

func (c *cli) attachCommand() *cobra.Command {
	var f attachFlags
	cmd := &cobra.Command{
		Use:   "attach (--container NAME | --selector KEY=VALUE | --unit NAME | --cgroup PATH | --pid PID) [--namespace NS] [--pool NAME]...",
		Short: "Attach to what is already running, and print the target's id",
		Long: `Attaches a cgroup: from then on what its processes connect to is intercepted, and its requests to bound hosts
carry the credentials of the pools. The target is remembered when sluice is started again.

With --container it is a container's: an id or its beginning, a name of Docker's or nerdctl's, or a Kubernetes pod's or
container's name or POD/CONTAINER. It is attached again each time it starts, before its command runs, and does not
have to run now. With --selector each container with that label is attached, those that run and those to come, until
the selector's target is detached. --namespace keeps both to one of containerd's namespaces.

With --unit it is a running systemd unit's. With --pid it is the cgroup that the process is in: everything else in there
is attached with it.

Connections to bound ports that were open before are closed, so that they are opened anew through sluice. Processes that
run and do not trust sluice's CA, such as Node without NODE_EXTRA_CA_CERTS and what has already loaded its certificates,
are named with the way out; 'sluice targets' and 'sluice doctor' name them later.`,
		Example: `  sudo sluice attach --container hermes
  sudo sluice attach --selector app=agent --pool main
  sudo sluice attach --unit agent.service
  sudo sluice attach --cgroup /sys/fs/cgroup/system.slice/agent.service
  sudo sluice attach --pid "$(pgrep -o my-agent)" --pool main`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			spec, err := f.spec(cmd.Flags().Changed)
			if err != nil {
				return err
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			target, err := client.Attach(cmd.Context(), spec)
			if err != nil {
				return fmt.Errorf("attach: %w", err)
			}
			return c.print(target, func() {
				fmt.Fprintln(c.stdout, target.Id)
				c.remark(target.Id, api.TargetState(target.State), target.Reason)
				c.reportOlder(target)
				c.warnUntrusting(target.Id, target.Untrusting)
				c.warnUnserved([]api.Target{{Id: target.Id, Pools: target.Pools, Unserved: target.Unserved}})
			})
		},
	}
	cmd.Flags().StringVar(&f.cgroup, "cgroup", "", "directory of a cgroup v2 group")
	cmd.Flags().StringVar(&f.container, "container", "", "container to attach, by name or id")
	cmd.Flags().BoolVar(&f.keep, "keep-connections", false, "let connections that are there already go on past sluice until they end")
	cmd.Flags().StringVar(&f.namespace, "namespace", "", "containerd's namespace; without it, any")
	cmd.Flags().IntVar(&f.pid, "pid", 0, "process whose cgroup to attach, by its `ID`")
	cmd.Flags().StringVar(&f.selector, "selector", "", "label of the containers to attach, now and later, as KEY=VALUE")
	cmd.Flags().StringVar(&f.unit, "unit", "", "systemd unit whose cgroup to attach; a service, without a suffix")
	cmd.Flags().StringArrayVar(&f.pools, "pool", nil, "only the pool of this `NAME` serves the target; may be given several times")
	c.completeFlag(cmd, "pool", c.poolNames)
	return cmd
}

// spec is what the flags say, which has to be one thing; given says which of them are there.
func (f attachFlags) spec(given func(name string) bool) (api.TargetSpec, error) {
	var spec api.TargetSpec
	count := 0
	for _, x := range []struct {
		name, value string
		into        **string
	}{
		{"cgroup", f.cgroup, &spec.Cgroup},
		{"unit", f.unit, &spec.Unit},
		{"container", f.container, &spec.Container},
		{"selector", f.selector, &spec.Selector},
	} {
		if !given(x.name) {
			continue
		}
		if x.value == "" { // of a variable that is not set, say
			return spec, usageError{fmt.Sprintf("sluice attach: --%s is empty", x.name)}
		}
		count++
		*x.into = &x.value
	}
	if given("pid") {
		count++
		spec.Pid = &f.pid
	}
	switch {
	case count != 1:
		return spec, usageError{"sluice attach needs one of --container, --selector, --unit, --cgroup and --pid"}
	case spec.Pid != nil && f.pid < 1:
		return spec, usageError{fmt.Sprintf("--pid %d: not a process id", f.pid)}
	case f.namespace != "" && f.container == "" && f.selector == "":
		return spec, usageError{"--namespace is containerd's: it goes with --container or --selector"}
	case f.selector != "" && strings.Index(f.selector, "=") < 1:
		return spec, usageError{fmt.Sprintf("--selector %q: it has to be KEY=VALUE, such as app=agent", f.selector)}
	case f.namespace != "":
		spec.Namespace = &f.namespace
	}
	if f.cgroup != "" {
		absolute, err := filepath.Abs(f.cgroup)
		if err != nil {
			return spec, fmt.Errorf("--cgroup %s: %w", f.cgroup, err)
		}
		spec.Cgroup = &absolute
	}
	if len(f.pools) > 0 {
		spec.Pools = &f.pools
	}
	if f.keep {
		spec.KeepConnections = &f.keep
	}
	return spec, nil
}
