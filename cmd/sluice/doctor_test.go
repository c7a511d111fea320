package main

import (
	"errors"
	"strings"
	"testing"

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
