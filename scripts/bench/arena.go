package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/sluice-proxy/sluice/scripts/sandbox"
	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// The addresses are from the range for benchmarks (RFC 2544), all of them of
// one namespace. Not loopback's (127.0.0.0/8): sluice leaves that alone.
const (
	upstreamHost = "api.openai.com"
	upstreamAddr = "198.18.78.1:443"
	nginxAddr    = "198.18.78.2:443"
	reverseAddr  = "198.18.78.3:443"

	realKey = "sk-bench-real-0123456789abcdef"
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
	for _, addr := range []string{upstreamAddr, nginxAddr, reverseAddr} {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, host+"/32")
	}
	if err = a.ns.Own(addrs...); err != nil {
		return nil, err
	}
	pair, err := a.ca.Leaf(upstreamHost)
	if err != nil {
		return nil, err
	}
	if err = os.WriteFile(a.caFile, a.ca.PEM(), 0o644); err != nil {
		return nil, err
	}
	return a, writePair(a.pairFile, pair)
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

func (a *arena) close() error {
	var errs []error
	for i := len(a.undo) - 1; i >= 0; i-- {
		errs = append(errs, a.undo[i]())
	}
	return errors.Join(errs...)
}

// addDirect starts the upstream; asking it directly is the first contestant.
func (a *arena) addDirect(ctx context.Context, p plan) error {
	listeners, err := a.ns.Listen(ctx, upstreamAddr)
	if err != nil {
		return err
	}
	pair, err := a.ca.Leaf(upstreamHost)
	if err != nil {
		return errors.Join(err, listeners[0].Close())
	}
	a.upstream = startUpstream(listeners[0], pair, realKey, p.interval)
	a.undo = append(a.undo, a.upstream.close)
	a.all = append(a.all, contestant{name: "direct", addr: upstreamAddr, roots: a.caFile, key: realKey})
	return nil
}

func (a *arena) cgroup(name string) (*sandbox.Cgroup, error) {
	c, err := sandbox.NewCgroup(fmt.Sprintf("sluice-bench-%d-%s", os.Getpid(), name))
	if err == nil {
		a.undo = append(a.undo, c.Remove)
	}
	return c, err
}

func (a *arena) addSluice(ctx context.Context, p plan) error {
	in, err := a.cgroup("sluice")
	if err != nil {
		return err
	}
	d, err := sandbox.StartDaemon(ctx, sandbox.DaemonOptions{Bin: p.bin, Dir: a.dir, Roots: a.caFile, In: in})
	if err != nil {
		return err
	}
	a.undo = append(a.undo, d.Stop)
	if _, err := d.Sluice(ctx, realKey, "cred", "add", "key"); err != nil {
		return err
	}
	if _, err := d.Sluice(ctx, "", "pool", "create", "bench", "--members", "key", "--provider", "openai"); err != nil {
		return err
	}
	roots, err := d.Sluice(ctx, "", "ca", "show")
	if err != nil {
		return err
	}
	file := filepath.Join(a.dir, "sluice-ca.pem")
	if err := os.WriteFile(file, roots, 0o644); err != nil {
		return err
	}
	clients, err := a.cgroup("clients")
	if err != nil {
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
	a.all = append(a.all, contestant{name: "sluice", addr: upstreamAddr, roots: file, key: sentKey, cgroup: in, within: clients})
	return nil
}

func (a *arena) addNginx(ctx context.Context, _ plan) error {
	bin, err := exec.LookPath("nginx")
	if err != nil {
		if bin, err = exec.LookPath("/usr/sbin/nginx"); err != nil {
			return errors.New("nginx is not installed: run scripts/deps.sh")
		}
	}
	config := filepath.Join(a.dir, "nginx.conf")
	if err := os.WriteFile(config, []byte(nginxConfig(a.dir, a.pairFile, a.caFile)), 0o600); err != nil {
		return err
	}
	return a.start(ctx, contestant{name: "nginx", addr: nginxAddr, roots: a.caFile, key: sentKey},
		bin, "-e", "stderr", "-p", a.dir, "-c", config)
}

func (a *arena) addReverse(ctx context.Context, _ plan) error {
	return a.start(ctx, contestant{name: "net/http", addr: reverseAddr, roots: a.caFile, key: sentKey},
		a.self, reverseRole, "-listen", reverseAddr, "-to", upstreamAddr, "-cert", a.pairFile, "-roots", a.caFile, "-key", realKey)
}

// start starts a proxy in a cgroup of its own and waits until it listens.
func (a *arena) start(ctx context.Context, c contestant, argv ...string) (err error) {
	if c.cgroup, err = a.cgroup(filepath.Base(argv[0]) + strconv.Itoa(len(a.all))); err != nil {
		return err
	}
	in, err := c.cgroup.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	cmd, said := sandbox.Command(nil, argv...), sandbox.NewTail("", false)
	cmd.Env, cmd.Stdout, cmd.Stderr = sandbox.Environment(a.dir), said, said
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(in.Fd())
	process, err := sandbox.Start(c.name, cmd, func() error { return a.ns.Do(cmd.Start) })
	if err != nil {
		return err
	}
	a.undo = append(a.undo, process.Stop)
	a.all = append(a.all, c)
	for deadline := time.Now().Add(10 * time.Second); ; {
		err := a.ns.Do(func() error {
			conn, err := net.DialTimeout("tcp", c.addr, time.Second)
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

// measure runs the clients of one contestant once.
func (a *arena) measure(ctx context.Context, c contestant, p plan, streams bool) (r result, err error) {
	args := []string{
		a.self, loadRole,
		"-addr", c.addr, "-roots", c.roots, "-key", c.key, "-seconds", strconv.FormatFloat(p.seconds, 'f', -1, 64),
	}
	if streams {
		args = append(args, "-streams", strconv.Itoa(p.streams), "-interval", p.interval.String())
	} else {
		args = append(args, "-connections", strconv.Itoa(p.connections))
	}
	cmd, said := sandbox.Command(nil, args...), sandbox.NewTail("", false)
	cmd.Env, cmd.Stderr = sandbox.Environment(a.dir), said
	if c.within != nil {
		in, err := c.within.Open()
		if err != nil {
			return r, err
		}
		defer in.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(in.Fd())
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return r, err
	}
	if err := a.ns.Do(cmd.Start); err != nil {
		return r, err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(os.Interrupt) })
	defer stop()
	r, err = c.follow(bufio.NewScanner(out))
	err = errors.Join(err, cmd.Wait())
	if err != nil {
		return r, errors.Join(ctx.Err(), fmt.Errorf("%s: %w\n%s", c.name, err, said.Text()))
	}
	return r, nil
}

// follow reads what the clients print, and the processor time when they begin and end.
func (c contestant) follow(out *bufio.Scanner) (result, error) {
	var before, after time.Duration
	var err error
	r := result{Contestant: c.name}
	for out.Scan() {
		switch line := out.Text(); line {
		case "go":
			before, err = c.cpu()
		case "end":
			var endErr error
			after, endErr = c.cpu()
			err = errors.Join(err, endErr)
		default:
			if decodeErr := json.Unmarshal([]byte(line), &r.sample); decodeErr != nil {
				return r, fmt.Errorf("the clients printed %q", line)
			}
		}
	}
	if r.Count == 0 {
		return r, errors.Join(err, out.Err(), errors.New("the clients ended without a result"))
	}
	r.CPU = float64(after-before) / float64(time.Microsecond) / float64(r.Count)
	return r, err
}

// cpu is the processor time of the proxy so far; the direct way has no proxy.
func (c contestant) cpu() (time.Duration, error) {
	if c.cgroup == nil {
		return 0, nil
	}
	return c.cgroup.CPU()
}
