package packaging

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.."

// checkout copies the working tree, without what git ignores.
func checkout(t *testing.T, to string) {
	t.Helper()
	copying := exec.Command("sh", "-c", `git -c safe.directory='*' ls-files -z --cached --others --exclude-standard | tar -c --null --ignore-failed-read -T - | tar -x -C "$0"`, to)
	copying.Dir = root
	if out, err := copying.CombinedOutput(); err != nil {
		t.Fatalf("copying the source: %v: %s", err, out)
	}
}

// makeTarget runs a target of the Makefile in a directory, and returns what it printed.
func makeTarget(t *testing.T, dir string, args ...string) string {
	t.Helper()
	return makeUnder(t, "022", dir, args...)
}

// makeUnder is makeTarget for somebody with that umask.
func makeUnder(t *testing.T, umask, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-c", `umask "$0" && exec make --no-print-directory "$@"`, umask}, args...)...)
	cmd.Dir = dir
	// A make around the test must not hand its own flags down.
	cmd.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=", "MFLAGS=")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("make %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestBuildIsReproducible builds the same commit in two directories, for each
// processor that there are packages for. The binaries are the same to the byte,
// and hold the BPF objects.
func TestBuildIsReproducible(t *testing.T) {
	t.Parallel()
	first, second := t.TempDir(), filepath.Join(t.TempDir(), "some", "where", "else")
	checkout(t, first)
	if err := os.MkdirAll(filepath.Dir(second), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", first, second).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	stamp := []string{"VERSION=1.2.3", "COMMIT=abc", "DATE=2026-01-02T03:04:05Z"}
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		var built [2][]byte
		for i, dir := range []string{first, second} {
			bin := filepath.Join(dir, "bin", arch)
			makeTarget(t, dir, append([]string{"build", "BIN=" + bin, "GOARCH=" + arch}, stamp...)...)
			var err error
			if built[i], err = os.ReadFile(bin); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(built[0], built[1]) {
			t.Errorf("%s: two builds of one commit differ", arch)
		}
		if bytes.Contains(built[0], []byte(first)) {
			t.Errorf("%s: the binary names the directory in which it was built", arch)
		}
		file, err := elf.NewFile(bytes.NewReader(built[0]))
		if err != nil {
			t.Fatal(err)
		}
		if libraries, err := file.ImportedLibraries(); file.Machine != machine || err != nil || len(libraries) > 0 {
			t.Errorf("%s: machine %s, libraries %v (%v); want %s and none", arch, file.Machine, libraries, err, machine)
		}
		objects, err := filepath.Glob(filepath.Join(first, "bpf", "*_bpfel.o"))
		if err != nil || len(objects) == 0 {
			t.Fatalf("no BPF objects: %v", err)
		}
		for _, object := range objects {
			if code, err := os.ReadFile(object); err != nil || !bytes.Contains(built[0], code) {
				t.Errorf("%s: %s is not in the binary (%v)", arch, filepath.Base(object), err)
			}
		}
	}
}

// TestVersion asks a binary what it is.
func TestVersion(t *testing.T) {
	t.Parallel()
	bin := filepath.Join(t.TempDir(), "sluice")
	makeTarget(t, root, "build", "BIN="+bin)
	out, err := exec.Command(bin, "version", "-o", "json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var said struct{ Version, Commit, Date string }
	if err := json.Unmarshal(out, &said); err != nil {
		t.Fatal(err)
	}
	git := func(args ...string) string {
		cmd := exec.Command("git", append([]string{"-c", "safe.directory=*"}, args...)...)
		cmd.Dir, cmd.Env = root, append(os.Environ(), "TZ=UTC")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("git %v: %v", args, err)
		}
		return strings.TrimSpace(string(out))
	}
	if want := git("rev-parse", "HEAD"); said.Commit != want {
		t.Errorf("commit %q, want %q", said.Commit, want)
	}
	if want := git("log", "-1", "--date=format-local:%Y-%m-%dT%H:%M:%SZ", "--format=%cd"); said.Date != want {
		t.Errorf("date %q, want %q", said.Date, want)
	}
	if want := git("describe", "--tags", "--always"); !strings.HasPrefix(said.Version, want) {
		t.Errorf("version %q, want %q", said.Version, want)
	}
}
