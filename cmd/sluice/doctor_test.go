package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
)

// A kernel that lacks what sluice can do without is no failure: Linux 5.15, which is promised, is one.
func TestDoctorOnAnOldKernel(t *testing.T) {
	why := &bpf.UnsupportedError{Feature: "it", MinKernel: "5.18"}
	here := bpf.Feature{Name: "hooks", MinKernel: "4.17"}
	optional := bpf.Feature{Name: "choosing errors", MinKernel: "5.18", Optional: true, Err: why}
	needed := bpf.Feature{Name: "cookies", MinKernel: "5.14", Err: why}
	for _, c := range []struct {
		name     string
		features []bpf.Feature
		want     string // states and features, in order
	}{
		{"all", []bpf.Feature{here}, "OK"},
		{"one that is optional", []bpf.Feature{here, optional}, "WARN choosing errors"},
		{"one that is needed", []bpf.Feature{here, needed}, "FAIL cookies"},
		{"both", []bpf.Feature{optional, needed}, "WARN choosing errors, FAIL cookies"},
	} {
		var got []string
		for _, f := range checkKernel(c.features) {
			line := f.State
			for _, feature := range []bpf.Feature{optional, needed} {
				if strings.Contains(f.Detail, feature.Name) {
					line += " " + feature.Name
					if !strings.Contains(f.Mend, "Linux "+feature.MinKernel) {
						t.Errorf("%s: to mend %s it says %q", c.name, feature.Name, f.Mend)
					}
				}
			}
			got = append(got, line)
		}
		if said := strings.Join(got, ", "); said != c.want {
			t.Errorf("%s: %q, want %q", c.name, said, c.want)
		}
	}
	// Another kernel is a way out only for what this one lacks.
	for mend, f := range map[string]bpf.Feature{
		"lsm=":      {Name: "families", MinKernel: "6.0", Optional: true, Err: why, WayOut: "add bpf to lsm= on the kernel's command line"},
		"ask again": {Name: "families", MinKernel: "6.0", Optional: true, Err: errors.New("load a probe: cannot allocate memory")},
	} {
		if found := checkKernel([]bpf.Feature{f}); len(found) != 1 || !strings.Contains(found[0].Mend, mend) || strings.Contains(found[0].Mend, "boot Linux") {
			t.Errorf("%v: %+v, want %q", f.Err, found, mend)
		}
	}
}

// A daemon that hangs is a finding, and no reason to wait for ever.
func TestDoctorOfADaemonThatHangs(t *testing.T) {
	t.Parallel()
	d := newDouble(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	got := new(cli).checkDaemon(ctx, config{Socket: d.socket})
	if len(got) != 1 || got[0].State != findingFail || !strings.Contains(got[0].Detail, "does not answer") || !strings.Contains(got[0].Mend, "restart") {
		t.Errorf("%+v", got)
	}
}

// The usual place of the pins is root's alone: not to be let in there says nothing of /sys.
func TestDoctorMayNotLook(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o600); err != nil {
		t.Fatal(err)
	}
	unprivileged(t, func() {
		f := checkBPFFS(filepath.Join(dir, "sluice"))
		if f.State != findingFail || !strings.Contains(f.Detail, "permission denied") || f.Mend != "run 'sudo sluice doctor'" {
			t.Errorf("%+v", f)
		}
	})
}

// unprivileged calls f where root's power over files is not to be had.
func unprivileged(t *testing.T, f func()) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // to the end: the thread goes with the goroutine
		if os.Geteuid() == 0 {
			if err := unix.Setfsuid(65534); err != nil {
				t.Error(err)
				return
			}
		}
		f()
	}()
	<-ended
}

// A state directory on another disk is reached by a link, whose mode says nothing.
func TestDoctorFollowsALinkToTheState(t *testing.T) {
	t.Parallel()
	state, link := t.TempDir(), filepath.Join(t.TempDir(), "sluice")
	if err := os.Symlink(state, link); err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[os.FileMode]string{0o700: findingOK, 0o755: findingFail} {
		if err := os.Chmod(state, mode); err != nil {
			t.Fatal(err)
		}
		if f := checkStateDir(link); len(f) != 1 || f[0].State != want {
			t.Errorf("mode %04o: %+v, want %s", mode, f, want)
		}
	}
}

// doctor asks the daemon of the configuration that it reads, unless it is told of another one.
func TestDoctorAsksTheDaemonOfItsConfiguration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(file, fmt.Appendf(nil, "socket = %q\nstate_dir = %q\n", filepath.Join(dir, "configured"), dir), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, told := range map[string]struct {
		args, environment []string
	}{
		"configured": {},
		"variable":   {environment: []string{"SLUICE_SOCKET=" + filepath.Join(dir, "variable")}},
		"flag":       {args: []string{"--socket", filepath.Join(dir, "flag")}, environment: []string{"SLUICE_SOCKET=" + filepath.Join(dir, "variable")}},
	} {
		out, _ := command(t, told.environment, append([]string{"doctor", "--config", file}, told.args...)...).Output()
		if line := "none answers on " + filepath.Join(dir, want) + "\n"; !strings.Contains(string(out), line) {
			t.Errorf("%s: no %q in %s", want, line, out)
		}
	}
}
