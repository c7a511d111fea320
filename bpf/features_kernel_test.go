package bpf_test

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

func TestProbe(t *testing.T) {
	kerneltest.Require(t)
	load(t, bpf.Options{PinDir: pinDir(t)}) // what loads must be probed as there
	version := regexp.MustCompile(`^[4-6]\.\d+$`)
	names := make(map[string]bool)
	for _, f := range bpf.Probe() {
		if f.Err != nil && !f.Optional {
			t.Errorf("%s: %v, but the programs load", f.Name, f.Err)
		}
		if !version.MatchString(f.MinKernel) || f.Name == "" || names[f.Name] {
			t.Errorf("%+v", f)
		}
		names[f.Name] = true
	}
}

func TestUnsupportedError(t *testing.T) {
	err := error(&bpf.UnsupportedError{Feature: "getpeername hooks", MinKernel: "5.8"})
	if msg := err.Error(); !strings.Contains(msg, "getpeername hooks") || !strings.Contains(msg, "needs Linux 5.8") {
		t.Errorf("%q", msg)
	}
	if !errors.Is(err, ebpf.ErrNotSupported) {
		t.Error("it is not ebpf.ErrNotSupported")
	}
	err = &bpf.UnsupportedError{Feature: "storage", MinKernel: "5.2", WayOut: "give it cmpxchg16b"}
	if msg := err.Error(); !strings.Contains(msg, "(give it cmpxchg16b)") || strings.Contains(msg, "5.2") {
		t.Errorf("%q", msg)
	}
}
