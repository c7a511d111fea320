package audit

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// A disk that is really full: each batch is written whole or given back, nothing
// is left half, and it goes on when there is room.
func TestFullDisk(t *testing.T) {
	kerneltest.Require(t)
	state := t.TempDir()
	if err := syscall.Mount("audit", state, "tmpfs", 0, "size=128k,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(state, 0); err != nil {
			t.Error(err)
		}
	})
	p := place{dir: filepath.Join(state, "audit"), key: filepath.Join(state, "audit.key")}
	small := func(o *Options) { o.MaxSize, o.Keep = 20_000, -1 }
	l := p.open(t, small)
	// Something else fills the disk but for a little.
	ballast := filepath.Join(state, "ballast")
	fill(t, ballast, 8<<10)
	seq := int64(0)
	for {
		err := l.Deliver(t.Context(), events(seq+1, seq+7))
		if err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			break
		}
		seq += 7
	}
	if seq == 0 {
		t.Fatal("the disk was full from the beginning")
	}
	for range 3 { // again, as the reader does: nothing is added by it
		if err := l.Deliver(t.Context(), events(seq+1, seq+7)); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("on a full disk: %v", err)
		}
	}
	p.holds(t, seq)
	// A start on the full disk is no reason not to serve.
	_ = l.Close()
	l = p.open(t, small)
	if err := l.Deliver(t.Context(), events(seq+1, seq+7)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("after a start on a full disk: %v", err)
	}
	if s := l.Stats(); s.Errors != 1 || s.Broken != 0 {
		t.Errorf("%+v", s)
	}
	p.holds(t, seq)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	deliver(t, l, events(seq+1, seq+7))
	p.holds(t, seq+7)

	// Damage found on a full disk is written down when there is room, once.
	_ = l.Close()
	fill(t, ballast, 0)
	if err := os.Remove(p.file(headName)); err != nil {
		t.Fatal(err)
	}
	fill(t, filepath.Join(state, "rest"), 0)
	l = p.open(t, small)
	for range 3 {
		if err := l.Deliver(t.Context(), events(seq+8, seq+9)); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("on a full disk: %v", err)
		}
	}
	if err := errors.Join(os.Remove(ballast), os.Remove(filepath.Join(state, "rest"))); err != nil {
		t.Fatal(err)
	}
	deliver(t, l, events(seq+8, seq+9))
	if s := l.Stats(); s.Broken != 1 || s.Lines != 3 {
		t.Errorf("%+v", s)
	}
	if b := p.broken(t); b.File != p.file(headName) {
		t.Errorf("%v", b)
	}
}

// fill writes a file until only spare bytes are left on its disk.
func fill(t *testing.T, file string, spare int64) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size := int64(0)
	for err == nil {
		var n int
		n, err = f.Write(make([]byte, 4096))
		size += int64(n)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if err := f.Truncate(max(0, size-spare)); err != nil {
		t.Fatal(err)
	}
}
