package kerneltest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// childVariable names the function that a re-executed test binary is to run.
const childVariable = "SLUICE_KERNELTEST_CHILD"

// Child is a function that runs in a process of its own: in is what Call was
// given, out is encoded back.
type Child func(in json.RawMessage) (out any, err error)

// Main is for TestMain: in a process that [Call] started it runs the child and
// exits, else it returns.
//
//	func TestMain(m *testing.M) {
//		kerneltest.Main(children)
//		os.Exit(m.Run())
//	}
func Main(children map[string]Child) {
	name := os.Getenv(childVariable)
	if name == "" {
		return
	}
	var in json.RawMessage
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	child, ok := children[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "no child %q\n", name)
		os.Exit(2)
	}
	out, err := child(in)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Command prepares a command that is born in a cgroup and a network namespace,
// with an empty environment but for env. Start it with [Start]. An empty cgroup or
// namespace is the test's own.
func Command(t testing.TB, cgroup string, env []string, argv ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/nonexistent"}, env...)
	if cgroup != "" {
		dir, err := os.Open(cgroup)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = dir.Close() })
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	}
	return cmd
}

// Start starts a command in the network namespace at a path.
func Start(cmd *exec.Cmd, netns string) error {
	if netns == "" {
		return cmd.Start()
	}
	return In(netns, cmd.Start) // a child is born in its parent thread's namespace
}

// In runs f on a thread that is in the network namespace at a path.
func In(netns string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		fd, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- err
			return
		}
		defer func() { _ = unix.Close(fd) }()
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// Call runs a registered [Child] in a cgroup and a network namespace and decodes
// its answer into out.
func Call(t testing.TB, cgroup, netns, child string, in, out any) error {
	t.Helper()
	input, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	cmd := Command(t, cgroup, []string{childVariable + "=" + child}, "/proc/self/exe")
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &stdout, &stderr
	if err := Start(cmd, netns); err != nil {
		t.Fatalf("start a child: %v", err)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	if err := json.Unmarshal(stdout.Bytes(), out); err != nil {
		return fmt.Errorf("decode %q: %w", stdout.Bytes(), err)
	}
	return nil
}
