package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestCapabilitiesAgree holds what the doctor wants, and what the examples give to a
// container, to the unit: that the daemon works with those is tested.
func TestCapabilitiesAgree(t *testing.T) {
	t.Parallel()
	want := unitCapabilities(t)
	slices.Sort(want)
	var asked []string
	for _, capability := range needed {
		asked = append(asked, strings.ToLower(strings.TrimPrefix(capability.name, "CAP_")))
	}
	if slices.Sort(asked); !slices.Equal(asked, want) {
		t.Errorf("the doctor wants %v, the unit gives %v", asked, want)
	}
	for _, file := range []string{"compose.yaml", "kubernetes.yaml"} {
		text, err := os.ReadFile("../../scripts/examples/" + file)
		if err != nil {
			t.Fatal(err)
		}
		line := regexp.MustCompile(`(?m)^ +(?:cap_add|add): \[(.+)\]$`).FindSubmatch(text)
		if line == nil {
			t.Fatalf("%s adds no capability", file)
		}
		given := strings.Split(strings.ToLower(string(line[1])), ", ")
		if slices.Sort(given); !slices.Equal(given, want) {
			t.Errorf("%s gives %v, the unit %v", file, given, want)
		}
	}
}
