package bpf_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// daemonVariable makes a re-executed test binary a daemon with this pin directory, to be killed.
const daemonVariable = "SLUICE_BPF_TEST_DAEMON"

// runDaemon attaches the cgroup that it is told of, publishes a listener that never accepts,
// says so, and stays until it is killed.
func runDaemon(pins string) error {
	r, err := bpf.Load(bpf.Options{PinDir: pins, FailOpen: os.Getenv("FAIL_OPEN") == "1"})
	if err != nil {
		return err
	}
	if err := r.SetPorts([]uint16{443}); err != nil {
		return err
	}
	if err := r.Attach(os.Getenv("CGROUP")); err != nil {
		return err
	}
	fmt.Println("ready")
	for { // not select: where no goroutine is left the runtime takes that for a deadlock
		_ = unix.Pause()
	}
}

// startDaemon returns when the daemon has attached; kill ends it as kill -9 does.
func startDaemon(t *testing.T, pins, cgroup string, failOpen bool) (kill func()) {
	t.Helper()
	env := []string{daemonVariable + "=" + pins, "CGROUP=" + cgroup}
	if failOpen {
		env = append(env, "FAIL_OPEN=1")
	}
	cmd := kerneltest.Command(t, "", env, "/proc/self/exe")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	buf := make([]byte, 16)
	n, err := out.Read(buf)
	must(t, err)
	if !strings.HasPrefix(string(buf[:n]), "ready") {
		t.Fatalf("daemon said %q", buf[:n])
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

func pinDir(t testing.TB) string { return filepath.Join(kerneltest.BPFFS(t), "sluice") }
