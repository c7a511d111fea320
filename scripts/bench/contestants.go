package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sluice-proxy/sluice/scripts/sandbox"
)

const (
	directName = "direct"
	sluiceName = "sluice"
)

// everybody is who is measured, in the order of the tables.
var everybody = []string{directName, sluiceName, "nginx", "haproxy", "net/http", "mitmproxy"}

func (a *arena) add(ctx context.Context, name string, p plan) error {
	switch name {
	case directName:
		a.all = append(a.all, contestant{name: name, addr: upstreamAddr, roots: a.caFile, key: realKey})
		return nil
	case sluiceName:
		return a.addSluice(ctx, p)
	case "nginx":
		return a.addNginx(ctx)
	case "haproxy":
		return a.addHAProxy(ctx, p)
	case "net/http":
		return a.start(ctx, contestant{name: name, addr: reverseAddr, roots: a.caFile, key: sentKey}, reverseAddr,
			a.self, reverseRole, "-listen", reverseAddr, "-to", upstreamAddr, "-cert", a.pairFile, "-roots", a.caFile, "-key", realKey)
	}
	return a.addMitmproxy(ctx)
}

// addSluice starts a daemon with a pool of two members, as it is meant to be used, and
// pools for the hosts whose leaves are measured.
func (a *arena) addSluice(ctx context.Context, p plan) error {
	in, err := a.cgroup(sluiceName)
	if err != nil {
		return err
	}
	const header = "Authorization: Bearer {token}"
	d, err := sandbox.StartDaemon(ctx, sandbox.DaemonOptions{Bin: p.bin, Dir: a.dir, Roots: a.caFile, In: in})
	if err != nil {
		return err
	}
	a.undo = append(a.undo, d.Stop)
	add := func(cred, key string, pool ...string) error {
		if _, err := d.Sluice(ctx, key, "cred", "add", cred); err != nil || len(pool) == 0 {
			return err
		}
		_, err := d.Sluice(ctx, "", append([]string{"pool", "create"}, pool...)...)
		return err
	}
	if err := errors.Join(
		add("spare", realKey+"-spare"),
		add("key", realKey, "bench", "--members", "key,spare", "--provider", "openai"),
		// The CA for the zone signs for all hosts of it.
		add("zone-key", realKey+"-zone", "zone", "--members", "zone-key", "--host", zone, "--header", header),
	); err != nil {
		return err
	}
	if slices.ContainsFunc(p.works, func(w work) bool { return w.host == freshHost }) {
		for round := range p.rounds {
			name := fmt.Sprintf("fresh-%d", round)
			pool := []string{name, "--members", name + "-key", "--header", header}
			for i := range freshHosts {
				pool = append(pool, "--host", fmt.Sprintf(freshHost, round*freshHosts+i))
			}
			if err := add(name+"-key", realKey+"-"+name, pool...); err != nil {
				return err
			}
		}
	}
	roots, err := d.Sluice(ctx, "", "ca", "show")
	if err != nil {
		return err
	}
	file := filepath.Join(a.dir, "sluice-ca.pem")
	if err := os.WriteFile(file, append(roots, a.ca.PEM()...), 0o644); err != nil {
		return err
	}
	clients, err := a.cgroup("clients")
	if err != nil {
		return err
	}
	if err := a.occupy(clients); err != nil {
		return err
	}
	if _, err := d.Sluice(ctx, "", "attach", "--cgroup", clients.Path()); err != nil {
		return err
	}
	// Undone before the cgroup is removed, and that before the daemon ends.
	a.undo = append(a.undo, func() error {
		_, err := d.Sluice(context.WithoutCancel(ctx), "", "detach", "--all")
		return err
	})
	a.all = append(a.all, contestant{name: sluiceName, addr: upstreamAddr, roots: file, key: sentKey, cgroup: in, within: clients, said: d.Log})
	return nil
}

// occupy keeps a process in the cgroup, as an agent's own would be: sluice takes its listener
// out of a namespace that the last process of its targets has left.
func (a *arena) occupy(c *sandbox.Cgroup) error {
	bin, err := find("sleep", "coreutils")
	if err != nil {
		return err
	}
	cmd := sandbox.Command(nil, bin, "infinity")
	in, err := inside(cmd, c)
	if err != nil {
		return err
	}
	defer in.Close()
	process, err := sandbox.Start("sleep", cmd, func() error { return a.ns.Do(cmd.Start) })
	if err != nil {
		return err
	}
	a.undo = append(a.undo, process.Stop)
	return nil
}

func (a *arena) addNginx(ctx context.Context) error {
	bin, err := find("nginx", "nginx-light")
	if err != nil {
		return err
	}
	config := filepath.Join(a.dir, "nginx.conf")
	if err := os.WriteFile(config, []byte(nginxConfig(a.dir, a.pairFile, a.caFile)), 0o600); err != nil {
		return err
	}
	return a.start(ctx, contestant{name: "nginx", addr: nginxAddr, roots: a.caFile, key: sentKey}, nginxAddr,
		bin, "-e", "stderr", "-p", a.dir, "-c", config)
}

func (a *arena) addHAProxy(ctx context.Context, p plan) error {
	bin, err := find("haproxy", "haproxy")
	if err != nil {
		return err
	}
	config := filepath.Join(a.dir, "haproxy.cfg")
	if err := os.WriteFile(config, []byte(haproxyConfig(a.pairFile, a.caFile, p.streams+10)), 0o600); err != nil {
		return err
	}
	return a.start(ctx, contestant{name: "haproxy", addr: haproxyAddr, roots: a.caFile, key: sentKey}, haproxyAddr,
		bin, "-db", "-f", config)
}

// addMitmproxy starts mitmproxy, and redirects to it what the clients of a group of
// their own connect to. The rules are there only while it is measured: connection
// tracking would cost the others something.
func (a *arena) addMitmproxy(ctx context.Context) error {
	const group, listen = 65534, "8080"
	bin, err := find("mitmdump", "mitmproxy")
	if err != nil {
		return err
	}
	nft, err := find("nft", "nftables")
	if err != nil {
		return err
	}
	home := filepath.Join(a.dir, "mitmproxy")
	c := contestant{name: "mitmproxy", addr: mitmAddr, roots: filepath.Join(home, "mitmproxy-ca-cert.pem"), key: sentKey, group: group}
	c.around = func(ctx context.Context) (func() error, error) {
		rules := fmt.Sprintf("table ip bench {\n chain out {\n  type nat hook output priority -100\n  meta skgid %d tcp dport 443 redirect to :%s\n }\n}\n", group, listen)
		err := a.inNamespace(ctx, nft, rules, "-f", "-")
		return func() error {
			return a.inNamespace(context.WithoutCancel(ctx), nft, "", "delete", "table", "ip", "bench")
		}, err
	}
	return a.start(ctx, c, "127.0.0.1:"+listen, bin, "--mode", "transparent", "--listen-port", listen, "--quiet",
		"--set", "confdir="+home, "--set", "ssl_verify_upstream_trusted_ca="+a.caFile,
		"--set", "flow_detail=0", "--set", "connection_strategy=lazy", "--set", "upstream_cert=false", "--set", "stream_large_bodies=1k",
		"--modify-headers", "/~q/authorization/Bearer "+realKey)
}

// inNamespace runs a command to its end.
func (a *arena) inNamespace(ctx context.Context, bin, stdin string, args ...string) error {
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var said strings.Builder
	cmd.Stderr = &said
	if err := a.ns.Do(cmd.Start); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return errors.Join(fmt.Errorf("%s %s: %w", bin, strings.Join(args, " "), err), errors.New(strings.TrimSpace(said.String())))
	}
	return nil
}
