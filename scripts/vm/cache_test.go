package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func newCache(t *testing.T) cache {
	t.Helper()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	c, err := openCache()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// fill is a build that leaves one file.
func fill(_ context.Context, dir string) error {
	return errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "disk"), []byte("x"), 0o600))
}

func TestAnEntryIsBuiltOnce(t *testing.T) {
	c := newCache(t)
	var built atomic.Int32
	var wait sync.WaitGroup
	for range 5 {
		wait.Go(func() {
			dir, err := c.entry(t.Context(), "images", "k", func(ctx context.Context, dir string) error {
				built.Add(1)
				return fill(ctx, dir)
			})
			if err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(dir, "disk")); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if n := built.Load(); n != 1 {
		t.Errorf("built %d times", n)
	}
}

// What was interrupted or failed is no entry, and the next one does not begin with its remains.
func TestAFailedBuildIsNoEntry(t *testing.T) {
	c := newCache(t)
	broken := errors.New("no space left")
	_, err := c.entry(t.Context(), "images", "k", func(ctx context.Context, dir string) error {
		return errors.Join(fill(ctx, dir), broken)
	})
	if !errors.Is(err, broken) {
		t.Fatalf("%v, want %v", err, broken)
	}
	if left, _ := filepath.Glob(filepath.Join(c.dir, "images", "*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	// One that was killed.
	if err := os.MkdirAll(filepath.Join(c.dir, "images", "k.new", "root"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := c.entry(t.Context(), "images", "k", fill); err != nil {
		t.Error(err)
	}
}

func TestOldEntriesGo(t *testing.T) {
	c := newCache(t)
	for i := range kept + 2 {
		dir, err := c.entry(t.Context(), "images", string(rune('a'+i)), fill)
		if err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(time.Duration(i-100) * time.Hour)
		if err := os.Chtimes(dir, when, when); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.entry(t.Context(), "images", "c", fill); err != nil { // used again
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(c.dir, "images", "*"))
	if err != nil || len(left) != kept {
		t.Fatalf("%q (%v), want %d", left, err, kept)
	}
	for _, dir := range left {
		if name := filepath.Base(dir); name == "a" || name == "b" {
			t.Errorf("%s was used least, and is there", name)
		}
	}
}

func TestPassedIsForTheSameInputs(t *testing.T) {
	c := newCache(t)
	if !c.passed("fast", "one").IsZero() {
		t.Error("it passed before it ran")
	}
	if err := c.pass("fast", "one"); err != nil {
		t.Fatal(err)
	}
	if c.passed("fast", "one").IsZero() || !c.passed("fast", "two").IsZero() || !c.passed("vagrant", "one").IsZero() {
		t.Error("passed is not what was noted")
	}
}

// What has passed with these inputs is not run again, and what passed in Vagrant's guest not in plain qemu's either. Nothing
// is noted of what failed.
func TestDueRunsWhatHasNotPassed(t *testing.T) {
	h := &host{cache: newCache(t)}
	t.Chdir(t.TempDir())
	if out, err := exec.Command("git", "init", "-q").CombinedOutput(); err != nil {
		t.Fatalf("git: %v: %s", err, out)
	}
	var ran []string
	broken := errors.New("a test failed")
	ends := make(map[string]error)
	note := func(what string) func() error {
		return func() error {
			ran = append(ran, what)
			return ends[what]
		}
	}
	all := guests{vagrant: note("vagrant"), fast: note("fast"), boot: note("boot")}
	for _, c := range []struct {
		name, changed string
		ends          map[string]error
		want          string
	}{
		{"a first time fails", "", map[string]error{"vagrant": broken}, "vagrant"},
		{"a first time", "", nil, "vagrant boot"},
		{"nothing changed", "", nil, ""},
		{"a page changed", "README.md", nil, ""},
		{"the product changed, and fails", "pool/keeper.go", map[string]error{"fast": broken}, "fast"},
		{"it is mended", "pool/keeper.go", nil, "fast"},
		{"nothing changed since", "", nil, ""},
		{"the guest changed, and qemu does not boot", "scripts/vm/qemu.go", map[string]error{"boot": broken}, "vagrant boot"},
		{"that is mended", "", nil, "fast"},
		{"packaging changed", "scripts/packaging/nfpm.yaml", nil, "vagrant boot"},
	} {
		if c.changed != "" {
			if err := errors.Join(os.MkdirAll(filepath.Dir(c.changed), 0o755), os.WriteFile(c.changed, []byte(c.name), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		ran, ends = nil, c.ends
		if err := h.due(all); (err != nil) != (len(c.ends) > 0) {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := strings.Join(ran, " "); got != c.want {
			t.Errorf("%s: ran %q, want %q", c.name, got, c.want)
		}
	}
}

func TestDigest(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, args := range [][]string{{"init", "-q"}} {
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git: %v: %s", err, out)
		}
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	of := func() string {
		t.Helper()
		key, err := digest("vm", ":(exclude)vm/docs")
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	write("vm/a", "1")
	write(".gitignore", "*.log\n")
	first := of()
	for _, same := range []string{"elsewhere", "vm/docs/page", "vm/x.log"} {
		write(same, "2")
		if of() != first {
			t.Errorf("%s changed it", same)
		}
	}
	write("vm/a", "2")
	second := of()
	write("vm/b", "2")
	if third := of(); first == second || second == third {
		t.Error("a change of a file, or a new one, changed nothing")
	}
	if err := os.Remove("vm/b"); err != nil {
		t.Fatal(err)
	}
	if of() != second {
		t.Error("a file that went left its trace")
	}
}

// A change of a page, or of a test that runs elsewhere, is no reason to run in the guest again. A change of what is run there is.
func TestInputs(t *testing.T) {
	t.Chdir(t.TempDir())
	git := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git: %v: %s", err, out)
		}
	}
	git("init", "-q")
	all := func() map[string]string {
		t.Helper()
		keys := make(map[string]string)
		for _, what := range []string{"fast", "vagrant", "kernels"} {
			key, err := inputs(what)
			if err != nil {
				t.Fatal(err)
			}
			keys[what] = key
		}
		return keys
	}
	before := all()
	for _, c := range []struct{ file, changes string }{
		{"docs/page.md", ""},
		{"README.md", ""},
		{"scripts/vm/README.md", ""},
		{"scripts/vm/cache_test.go", ""},
		{"pool/keeper_test.go", ""},
		{"pool/testdata/hints/a", ""},
		{"scripts/bench/main.go", ""},
		{"scripts/vm/guest/host_test.go", "fast kernels vagrant"},
		{"scripts/vm/qemu.go", "fast kernels vagrant"},
		{"scripts/vm/image/packages", "fast kernels vagrant"},
		{"scripts/deps.sh", "fast kernels vagrant"},
		{"scripts/packaging/systemd/sluice.service", "fast vagrant"},
		{"scripts/packaging/deb_test.go", ""},
		{"Makefile", "fast vagrant"},
		{"pool/keeper.go", "fast"},
		{"go.sum", "fast"},
		{"intercept/attach.go", "fast kernels"},
		{"bpf/redirect_bpfel.o", "fast kernels"},
		{"bpf/attach_kernel_test.go", "kernels"},
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(c.file), 0o755), os.WriteFile(c.file, []byte(c.file), 0o644)); err != nil {
			t.Fatal(err)
		}
		git("add", "-A") // what is committed is listed in another way than what is not
		after := all()
		var changed []string
		for what := range after {
			if after[what] != before[what] {
				changed = append(changed, what)
			}
		}
		slices.Sort(changed)
		if got := strings.Join(changed, " "); got != c.changes {
			t.Errorf("%s is a reason to run %q, want %q", c.file, got, c.changes)
		}
		before = after
	}
}

// The scripts, and the names in their lists, are what the commands say they are.
func TestKernelNames(t *testing.T) {
	t.Chdir("../..")
	names, err := kernelNames()
	if err != nil || len(names) < 2 || names[0] != ownKernel {
		t.Fatalf("%q (%v)", names, err)
	}
	for _, name := range names {
		if strings.ContainsAny(name, "/ ") {
			t.Errorf("%q is no name of a directory", name)
		}
	}
}
