package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const poolName = "demo"

// build makes the executable from the source around the demo.
func build(ctx context.Context, dir string) (string, error) {
	bin := filepath.Join(dir, "sluice")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", bin, "./cmd/sluice")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/sluice: %w\n%s", err, out)
	}
	return bin, nil
}

// plainEnvironment is all that the demo's children get.
func plainEnvironment(home string) []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + home}
}

// daemon is `sluice serve` on a state directory that is thrown away.
type daemon struct {
	bin, dir, socket string
	cmd              *exec.Cmd
	log              *tail
	ended            chan error // closed once the process has been waited for
}

// startDaemon starts the daemon and waits until it serves. The upstream's CA
// is named in its configuration: the system's roots do not know it.
func startDaemon(ctx context.Context, dir, bin, caFile string, show bool) (*daemon, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	d := &daemon{
		bin: bin, dir: dir, socket: filepath.Join(dir, "sluice.sock"), ended: make(chan error, 1),
		log: &tail{word: "listening", heard: make(chan struct{}), show: show},
	}
	bpffs, config := filepath.Join(dir, "bpf"), filepath.Join(dir, "config.toml")
	if err := os.Mkdir(bpffs, 0o700); err != nil {
		return nil, err
	}
	text := fmt.Sprintf("pin_dir = %q\nupstream_roots = %q\n", filepath.Join(bpffs, "sluice"), caFile)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	d.cmd = inOwnMounts([]string{"bpf:" + bpffs}, bin, "serve",
		"--config", config, "--state-dir", filepath.Join(dir, "state"), "--socket", d.socket)
	d.cmd.Env, d.cmd.Stdout, d.cmd.Stderr = plainEnvironment(dir), d.log, d.log
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { d.ended <- d.cmd.Wait(); close(d.ended) }()
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	select {
	case <-d.log.heard:
		return d, nil
	case err := <-d.ended:
		return nil, fmt.Errorf("sluice serve ended: %v\n%s", err, d.log.text())
	case <-timer.C:
		err = fmt.Errorf("sluice serve did not say 'listening' within 20 s\n%s", d.log.text())
	case <-ctx.Done():
		err = ctx.Err()
	}
	return nil, errors.Join(err, d.stop())
}

// stop ends the daemon; with it go its mount namespace and the pins in there.
func (d *daemon) stop() error { return end(d.cmd, d.ended, "sluice serve") }

// end asks a process to end and insists after 15 s.
func end(cmd *exec.Cmd, ended <-chan error, what string) error {
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s: %w", what, err)
	}
	timer := time.NewTimer(15 * time.Second)
	defer timer.Stop()
	select {
	case <-ended:
		return nil
	case <-timer.C:
	}
	err := cmd.Process.Kill()
	<-ended
	return errors.Join(fmt.Errorf("%s did not end within 15 s of SIGTERM and was killed", what), err)
}

// sluice runs one command line against the daemon.
func (d *daemon) sluice(ctx context.Context, stdin string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, d.bin, append([]string{"--socket", d.socket}, args...)...)
	cmd.Env, cmd.Stdin = plainEnvironment(d.dir), strings.NewReader(stdin)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("sluice %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(said.Bytes()))
	}
	return out, nil
}

// makePool stores the two keys and makes a pool of them.
func (d *daemon) makePool(ctx context.Context) error {
	for _, step := range []struct {
		stdin string
		args  []string
	}{
		{firstSecret, []string{"cred", "add", "first"}},
		{secondSecret, []string{"cred", "add", "second"}},
		{"", []string{"pool", "create", poolName, "--members", "first,second", "--provider", "openai"}},
	} {
		if _, err := d.sluice(ctx, step.stdin, step.args...); err != nil {
			return err
		}
	}
	return nil
}

// poolStatus is what the demo reads of `sluice pool status -o json`.
type poolStatus struct {
	State   string `json:"state"`
	Active  string `json:"active"`
	Members []struct {
		Name      string `json:"name"`
		State     string `json:"state"`
		Remaining int    `json:"remaining_seconds"`
		Reason    string `json:"reason"`
	} `json:"members"`
}

func (d *daemon) poolStatus(ctx context.Context) (poolStatus, error) {
	var s poolStatus
	out, err := d.sluice(ctx, "", "pool", "status", poolName, "-o", "json")
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(out, &s); err != nil {
		return s, fmt.Errorf("sluice pool status -o json: %w: %s", err, out)
	}
	return s, nil
}

// out says who is out, and for how long.
func (s poolStatus) out() string {
	var all []string
	for _, m := range s.Members {
		if m.State == "cooldown" {
			all = append(all, fmt.Sprintf("%s out for %d s", m.Name, m.Remaining))
		}
	}
	return strings.Join(all, ", ")
}
