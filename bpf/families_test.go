package bpf

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// Only what tells of a kernel without LSM programs for cgroups has the daemon do without them: any other failure is one, lest a
// daemon that was short of memory for a moment leaves the hook out.
func TestLackOfLSM(t *testing.T) {
	for _, c := range []struct {
		err  error
		lack bool
	}{
		{fmt.Errorf("load program: %w: invalid argument", unix.EINVAL), true},
		{fmt.Errorf("find the hook socket_create: %w", btf.ErrNotFound), true},
		{fmt.Errorf("read the kernel's types: %w", os.ErrNotExist), true},
		{fmt.Errorf("read the kernel's types: %w", ebpf.ErrNotSupported), true},
		{fmt.Errorf("load program: %w: ", unix.EPERM), true},
		{unix.ENOMEM, false},
		{unix.E2BIG, false},
		{unix.EACCES, false},
	} {
		if got := lackOfLSM(c.err); errors.Is(got, ebpf.ErrNotSupported) != c.lack || !errors.Is(got, c.err) {
			t.Errorf("%v: %v, want it to be a lack: %v", c.err, got, c.lack)
		}
	}
}
