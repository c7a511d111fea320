package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sluice-proxy/sluice"

// arrows are the permitted imports between rooms: whatever is not listed is
// forbidden. A room's own subfolders are rooms of their own.
var arrows = map[string][]string{
	"bpf":                 {},
	"bpf/kerneltest":      {},
	"pool":                {"pool/echo", "pool/vault"},
	"pool/echo":           {},
	"pool/vault":          {},
	"pool/source":         {"pool", "pool/vault"},
	"pool/store":          {"pool", "pool/vault"},
	"intercept":           {"bpf", "pool", "intercept/cgroup", "intercept/container", "intercept/exchange", "intercept/guard", "intercept/netns", "intercept/sniff", "intercept/splice"},
	"intercept/ca":        {},
	"intercept/cgroup":    {},
	"intercept/container": {},
	"intercept/exchange":  {"pool", "pool/echo", "intercept/sniff"},
	"intercept/guard":     {},
	"intercept/netns":     {},
	"intercept/powers":    {},
	"intercept/sniff":     {},
	"intercept/splice":    {},
	"intercept/trust":     {},
	"monitor":             {"pool", "monitor/notice"},
	"monitor/notice":      {"pool"},
	"monitor/audit":       {"pool"},
	"reset":               {"pool"},
	"reset/containerd":    {"reset", "reset/inside"},
	"reset/guest":         {"reset"},
	"reset/inside":        {},
	"reset/scope":         {"reset", "reset/inside"},
	"control":             {"intercept", "intercept/cgroup", "intercept/container", "pool", "pool/vault", "reset"},
	"control/telegram":    {"control", "monitor/notice", "pool"},
	"control/api":         {"control", "intercept", "pool", "pool/vault", "reset"},
}

// maxLines is where a file probably holds two nouns.
const maxLines = 500

// longFiles are longer for a reason that is given.
var longFiles = map[string]string{
	"pool/keeper_test.go": "one story of the keeper: fixture, rules and model together",
}

type listed struct {
	ImportPath   string
	Dir          string
	Doc          string
	Imports      []string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
	// Of the programs: go list calls C ignored, as it is not compiled with the package.
	HFiles            []string
	IgnoredOtherFiles []string
}

func listPackages(t *testing.T, args ...string) []listed {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,Doc,Imports,GoFiles,TestGoFiles,XTestGoFiles,HFiles,IgnoredOtherFiles"}, args...)...)
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %s", exit.Stderr)
		}
		t.Fatal(err)
	}
	var all []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func TestArrows(t *testing.T) {
	seen := make(map[string]bool)
	for _, p := range listPackages(t, "./...") {
		room := strings.TrimPrefix(p.ImportPath, module+"/")
		seen[room] = true
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package comment", room)
		}
		allowed, ruled := arrows[room]
		if !ruled && !strings.HasPrefix(room, "cmd/") && !strings.HasPrefix(room, "scripts/") {
			t.Errorf("%s is a room without a rule: say in arrows what it may import", room)
		}
		for _, i := range p.Imports {
			to, ours := strings.CutPrefix(i, module+"/")
			if ruled && ours && !slices.Contains(allowed, to) {
				t.Errorf("%s must not import %s", room, to)
			}
		}
	}
	for room := range arrows {
		if !seen[room] {
			t.Errorf("%s has a rule and no package", room)
		}
	}
}

// Only daemon.go sees every room: a command is flags in, one call, output out.
func TestCommandsAreClients(t *testing.T) {
	deep := []string{"/pool/store", "/intercept/exchange", "/intercept/ca\"", "/intercept\""}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f == "daemon.go" || f == "memory.go" || f == "confidant.go" || strings.HasSuffix(f, "_test.go") {
			continue
		}
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		head, _, _ := strings.Cut(string(data), "\n)\n")
		for _, d := range deep {
			if strings.Contains(head, module+d) {
				t.Errorf("%s imports %s, which is the daemon's", f, strings.Trim(d, `"`))
			}
		}
	}
}

func TestFilesAreShort(t *testing.T) {
	for _, p := range listPackages(t, "./...") {
		for _, f := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles, p.HFiles, p.IgnoredOtherFiles) {
			name := filepath.Join(strings.TrimPrefix(p.ImportPath, module+"/"), f)
			if strings.HasSuffix(f, ".gen.go") || strings.HasPrefix(f, "redirect_bpf") || longFiles[name] != "" {
				continue
			}
			data, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(data, []byte("\n")); n > maxLines {
				t.Errorf("%s has %d lines, more than %d: are there two nouns in it?", name, n, maxLines)
			}
		}
	}
}

// What only tests and the demo need must not be in what people install.
func TestCommandHasNoTestCode(t *testing.T) {
	for _, p := range listPackages(t, "-deps", "./cmd/sluice") {
		switch strings.TrimPrefix(p.ImportPath, module+"/") {
		case "testing", "bpf/kerneltest", "scripts/botapi", "scripts/containerbox", "scripts/simulator", "scripts/sandbox":
			t.Errorf("the command depends on %s", p.ImportPath)
		}
	}
}
