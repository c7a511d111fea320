package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sluice-proxy/sluice/scripts/sandbox"
)

// machine is a guest in plain qemu.
type machine struct {
	guest
	process *sandbox.Process
	errors  string // the file with what qemu itself says
}

// boot starts a guest on a disk that is a copy-on-write of the image's. stop ends it.
//
// It is emulated: where there is a /dev/kvm it need not be one that can boot a kernel of Debian's. SLUICE_VM_ACCEL=kvm
// takes it all the same.
func (h *host) boot(ctx context.Context, i image, k kernel) (*machine, error) {
	dir, err := os.MkdirTemp(h.dir, "qemu")
	if err != nil {
		return nil, err
	}
	disk := filepath.Join(dir, "disk.qcow2")
	if out, err := exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-b", i.disk(), "-F", "qcow2", disk).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("qemu-img: %w: %s", err, out)
	}
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	m := &machine{errors: filepath.Join(dir, "qemu.log")}
	m.console = filepath.Join(dir, "console.log")
	m.ssh = ssh(i.key(), port, "127.0.0.1")
	log, err := os.Create(m.errors)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command("qemu-system-x86_64", arguments(k, disk, m.console, port)...)
	cmd.Stdout, cmd.Stderr = log, log
	// Ctrl-C is this process's to hear. Its end is qemu's.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if m.process, err = sandbox.Start("qemu", cmd, cmd.Start); err != nil {
		return nil, err
	}
	m.ended = m.process.Ended()
	return m, nil
}

func arguments(k kernel, disk, console string, port int) []string {
	args := []string{
		"-machine", "q35", "-smp", "2", "-m", "1024", "-nodefaults", "-no-user-config", "-display", "none",
		"-serial", "file:" + console, "-kernel", k.vmlinuz, "-initrd", k.initrd,
		"-append", "root=/dev/vda rw console=ttyS0 quiet mitigations=off panic=-1",
		"-drive", "file=" + disk + ",if=virtio,cache=unsafe",
		"-nic", "user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:" + strconv.Itoa(port) + "-:22", "-device", "virtio-rng-pci",
	}
	if k.modules != "" {
		args = append(args, "-drive", "file="+k.modules+",if=virtio,format=raw,readonly=on")
	}
	if os.Getenv("SLUICE_VM_ACCEL") == "kvm" {
		return append(args, "-accel", "kvm", "-cpu", "host")
	}
	processor := "max"
	if k.Name == "between" {
		// qemu 7.2 leaves garbage in the flags after cmpxchg16b, which ends a 6.12 in a double fault at its first interrupt there. Not so
		// for newer ones: without it they give no socket storage.
		processor += ",-cx16"
	}
	// With 128 MiB for what it has translated everything in the guest takes an eighth longer.
	return append(args, "-accel", "tcg,thread=multi,tb-size=512", "-cpu", processor)
}

// ssh is a command for root's shell lines in a guest.
func ssh(key string, port int, addr string) []string {
	args := []string{"ssh", "-i", key, "-p", strconv.Itoa(port), "-l", "root", "-F", "none"}
	for _, option := range []string{
		"BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR",
		"ConnectTimeout=5", "ServerAliveInterval=10", "ServerAliveCountMax=12",
	} {
		args = append(args, "-o", option)
	}
	return append(args, addr)
}

// freePort is one that nobody listens on at this moment.
func freePort(ctx context.Context) (int, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// stop ends qemu. What it had to say is part of the error if it had ended before.
func (m *machine) stop() error {
	select {
	case <-m.process.Ended():
		said, _ := os.ReadFile(m.errors)
		return fmt.Errorf("qemu ended by itself: %v: %s", m.process.Err(), strings.TrimSpace(string(said)))
	default:
		return m.process.Stop()
	}
}

// last is the end of the console's log, for a boot that went wrong.
func (g *guest) last() string {
	text, err := os.ReadFile(g.console)
	if err != nil {
		return err.Error()
	}
	if len(text) > 4000 {
		text = text[len(text)-4000:]
	}
	return string(text)
}

// on boots a guest, waits until it is up, calls f and ends it.
func (h *host) on(ctx context.Context, i image, k kernel, f func(m *machine, boot string) error) (err error) {
	begun := time.Now()
	m, err := h.boot(ctx, i, k)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.stop()) }()
	boot, err := m.ready(ctx, "")
	if err != nil {
		return fmt.Errorf("kernel %s: %w; the console's last words:\n%s", k.Name, err, m.last())
	}
	fmt.Printf("vm: kernel %s is up in %s\n", k.Name, time.Since(begun).Round(100*time.Millisecond))
	return f(m, boot)
}
