package kerneltest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Links are the ids of all links in the kernel. One that is being freed cannot be opened any more (EAGAIN), nor does the library pass
// it over: it is waited for.
func Links(t testing.TB) []link.ID {
	t.Helper()
	var all []link.ID
	it := new(link.Iterator)
	for end := time.Now().Add(30 * time.Second); ; {
		for it.Next() {
			all = append(all, it.ID)
		}
		err := it.Err()
		it.Close()
		if err == nil {
			return all
		}
		if !errors.Is(err, unix.EAGAIN) || time.Now().After(end) {
			t.Fatal(fmt.Errorf("list the links: %w", err))
		}
		time.Sleep(time.Millisecond)
		it = &link.Iterator{ID: it.ID}
	}
}
