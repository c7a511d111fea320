package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Build makes sluice's executable in dir from the source around the caller. No
// version control is asked: under sudo git refuses a checkout that is not root's.
func Build(ctx context.Context, dir string) (string, error) {
	bin := filepath.Join(dir, "sluice")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", bin,
		"github.com/sluice-proxy/sluice/cmd/sluice")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/sluice: %w\n%s", err, out)
	}
	return bin, nil
}

// DaemonOptions say which daemon, and where.
type DaemonOptions struct {
	Bin   string  // the executable of sluice
	Dir   string  // a directory that is thrown away afterwards: state, socket, configuration
	Roots string  // PEM file of the CA that the upstreams' certificates are from
	In    *Cgroup // nil = the caller's
	Show  bool    // what it logs goes to standard error too

	Config string // further lines of its configuration
}

// Daemon is `sluice serve` on a state directory that is thrown away.
type Daemon struct {
	*Process
	Bin, Dir, Socket string

	log *Tail
}

// StartDaemon starts the daemon and waits until it serves.
func StartDaemon(ctx context.Context, o DaemonOptions) (*Daemon, error) {
	bin, err := filepath.Abs(o.Bin)
	if err != nil {
		return nil, err
	}
	d := &Daemon{Bin: bin, Dir: o.Dir, Socket: filepath.Join(o.Dir, "sluice.sock"), log: NewTail("listening", o.Show)}
	bpffs, config := filepath.Join(o.Dir, "bpf"), filepath.Join(o.Dir, "config.toml")
	if err := os.Mkdir(bpffs, 0o700); err != nil {
		return nil, err
	}
	text := fmt.Sprintf("pin_dir = %q\nupstream_roots = %q\n", filepath.Join(bpffs, "sluice"), o.Roots) + o.Config
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	cmd := Command([]string{"bpf:" + bpffs}, bin, "serve",
		"--config", config, "--state-dir", filepath.Join(o.Dir, "state"), "--socket", d.Socket)
	cmd.Env, cmd.Stdout, cmd.Stderr = Environment(o.Dir), d.log, d.log
	if o.In != nil {
		in, err := o.In.Open()
		if err != nil {
			return nil, err
		}
		defer in.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(in.Fd())
	}
	if d.Process, err = Start("sluice serve", cmd, cmd.Start); err != nil {
		return nil, err
	}
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	select {
	case <-d.log.Heard():
		return d, nil
	case <-d.Ended():
		return nil, fmt.Errorf("sluice serve ended: %w\n%s", d.Err(), d.Log())
	case <-timer.C:
		err = fmt.Errorf("sluice serve did not say 'listening' within 20 s\n%s", d.Log())
	case <-ctx.Done():
		err = ctx.Err()
	}
	return nil, errors.Join(err, d.Stop())
}

// Log is the end of what the daemon said, indented.
func (d *Daemon) Log() string { return d.log.Text() }

// Sluice runs one command line against the daemon and returns what it printed.
func (d *Daemon) Sluice(ctx context.Context, stdin string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, d.Bin, append([]string{"--socket", d.Socket}, args...)...)
	cmd.Env, cmd.Stdin = Environment(d.Dir), strings.NewReader(stdin)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("sluice %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(said.Bytes()))
	}
	return out, nil
}
