package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/sluice-proxy/sluice/scripts/sandbox"
	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// The addresses are from the range for benchmarks (RFC 2544), all of them of
// one namespace. Not loopback's (127.0.0.0/8): sluice leaves that alone.
const (
	upstreamAddr = "198.18.78.1:443"
	nginxAddr    = "198.18.78.2:443"
	reverseAddr  = "198.18.78.3:443"
	haproxyAddr  = "198.18.78.4:443"
	mitmAddr     = "198.18.78.5:443" // the upstream's other address: connections to it are redirected

	upstreamHost = "api.openai.com"
	zone         = "bench.test"
	unboundHost  = "files." + zone // of the upstream too, and of no pool
	freshHost    = "h%d." + zone   // hosts of a second pool

	// realKey is as long as a project's key of OpenAI's.
	realKey = "sk-proj-bench-Wm4xPq7LzR2vNc9TkY6hJd3FsB8gQn5uXe1aVo0iCtMwZy4KrSpGlHfDjUbE7n2m9QxAvT5cL8zR3kWyP6sJ4hN1dGqFoB0gXiVuCeMtYaKwZrSpLlHfDjUbEn7m2xQ9vA5Tc"
	// sentKey is what the clients send; the proxies replace it.
	sentKey = "sk-bench-sent-0123456789abcdef"
)

// contestant is a proxy that is measured.
type contestant struct {
	name   string
	addr   string
	roots  string          // what its clients trust
	key    string          // what they send
	cgroup *sandbox.Cgroup // of the proxy; nil = there is none
	within *sandbox.Cgroup // of the clients; nil = the caller's
	group  uint32          // of the clients: the id that they run under
	said   func() string   // the end of what the proxy itself said; may be nil
	// around is done before each measurement, and undone by what it returns; may be nil.
	around func(context.Context) (undo func() error, err error)
}

// arena is where everybody meets.
type arena struct {
	dir      string
	self     string
	ns       *sandbox.Namespace
	ca       *simulator.Authority
	caFile   string
	pairFile string // certificate and key for upstreamHost
	upstream *upstream
	all      []contestant
	undo     []func() error // in reverse order
}

func newArena(ctx context.Context, dir string) (_ *arena, err error) {
	a := &arena{dir: dir, caFile: filepath.Join(dir, "ca.pem"), pairFile: filepath.Join(dir, "pair.pem")}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	if a.self, err = os.Executable(); err != nil {
		return nil, err
	}
	if a.ca, err = simulator.NewAuthority(); err != nil {
		return nil, err
	}
	if a.ns, err = sandbox.NewNamespace(); err != nil {
		return nil, err
	}
	a.undo = append(a.undo, a.ns.Close)
	var addrs []string
	for _, addr := range []string{upstreamAddr, nginxAddr, reverseAddr, haproxyAddr, mitmAddr} {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, host+"/32")
	}
	if err = a.ns.Own(addrs...); err != nil {
		return nil, err
	}
	// A connection for each request leaves its port in TIME_WAIT for a minute.
	err = a.ns.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("2000 65000"), 0)
	})
	if err != nil {
		return nil, err
	}
	pair, err := a.ca.Leaf(upstreamHost)
	if err != nil {
		return nil, err
	}
	if err = os.WriteFile(a.caFile, a.ca.PEM(), 0o644); err != nil {
		return nil, err
	}
	if err = writePair(a.pairFile, pair); err != nil {
		return nil, err
	}
	return a, a.startUpstream(ctx, pair)
}

func writePair(file string, pair *tls.Certificate) error {
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	for _, der := range pair.Certificate {
		text.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	text.Write(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	return os.WriteFile(file, text.Bytes(), 0o600)
}

func (a *arena) startUpstream(ctx context.Context, pair *tls.Certificate) error {
	listeners, err := a.ns.Listen(ctx, upstreamAddr, mitmAddr)
	if err != nil {
		return err
	}
	wild, err := a.ca.Leaf("*." + zone)
	if err != nil {
		return err
	}
	a.upstream = startUpstream(listeners, pair, wild, realKey)
	a.undo = append(a.undo, a.upstream.close)
	return nil
}

func (a *arena) close() error {
	var errs []error
	for i := len(a.undo) - 1; i >= 0; i-- {
		errs = append(errs, a.undo[i]())
	}
	return errors.Join(errs...)
}

func (a *arena) cgroup(name string) (*sandbox.Cgroup, error) {
	c, err := sandbox.NewCgroup(fmt.Sprintf("sluice-bench-%d-%s", os.Getpid(), name))
	if err == nil {
		a.undo = append(a.undo, c.Remove)
	}
	return c, err
}

// inside prepares a command for a cgroup.
func inside(cmd *exec.Cmd, c *sandbox.Cgroup) (*os.File, error) {
	in, err := c.Open()
	if err == nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(in.Fd())
	}
	return in, err
}

// start starts a proxy in a cgroup of its own and waits until it listens at ready.
func (a *arena) start(ctx context.Context, c contestant, ready string, argv ...string) (err error) {
	if c.cgroup, err = a.cgroup(filepath.Base(argv[0]) + strconv.Itoa(len(a.all))); err != nil {
		return err
	}
	cmd, said := sandbox.Command(nil, argv...), sandbox.NewTail("", false)
	in, err := inside(cmd, c.cgroup)
	if err != nil {
		return err
	}
	defer in.Close()
	cmd.Env, cmd.Stdout, cmd.Stderr = sandbox.Environment(a.dir), said, said
	process, err := sandbox.Start(c.name, cmd, func() error { return a.ns.Do(cmd.Start) })
	if err != nil {
		return err
	}
	a.undo = append(a.undo, process.Stop)
	c.said = said.Text
	a.all = append(a.all, c)
	for deadline := time.Now().Add(20 * time.Second); ; {
		err := a.ns.Do(func() error {
			conn, err := net.DialTimeout("tcp", ready, time.Second)
			if err != nil {
				return err
			}
			return conn.Close()
		})
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not listen: %w\n%s", c.name, err, said.Text())
		}
		select {
		case <-process.Ended():
			return fmt.Errorf("%s ended: %w\n%s", c.name, process.Err(), said.Text())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// find looks for a program of a Debian package.
func find(name, pkg string) (string, error) {
	for _, path := range []string{name, "/usr/sbin/" + name} {
		if bin, err := exec.LookPath(path); err == nil {
			return bin, nil
		}
	}
	return "", fmt.Errorf("%s is not installed (package %s): run scripts/deps.sh --bench", name, pkg)
}

// clients is the command that makes a contestant's load.
func (a *arena) clients(c contestant, args ...string) *exec.Cmd {
	cmd := sandbox.Command(nil, append([]string{a.self, loadRole, "-addr", c.addr}, args...)...)
	cmd.Env = sandbox.Environment(a.dir)
	if c.group != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Gid: c.group}
	}
	return cmd
}
