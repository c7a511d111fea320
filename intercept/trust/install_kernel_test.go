package trust

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

const (
	inPython = `import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=15).read()`
	inNode   = `require("https").get(process.argv[1], r => { r.resume() }).on("error", e => { console.error(e.code); process.exitCode = 1 })`
)

// clients ask for a URL, each in its own default way.
func clients(t *testing.T, url string) map[string][]string {
	t.Helper()
	for _, tool := range []string{"curl", "python3", "node", "git"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v: scripts/deps.sh installs it", err)
		}
	}
	return map[string][]string{
		"curl":    {"/usr/bin/env", "curl", "-fsS", "-m", "15", "--noproxy", "*", url},
		"python3": {"/usr/bin/env", "python3", "-c", inPython, url},
		"node":    {"/usr/bin/env", "node", "-e", inNode, url},
		"git":     {"/usr/bin/env", "git", "ls-remote", strings.TrimSuffix(url, "/info/refs")},
		"go":      {"/proc/self/exe", strconv.Quote(url)},
	}
}

// ask runs the scenario and says which clients failed, as "client: what it said" by site.
func ask(t *testing.T, s scenario, sites map[string]site, skip ...string) (report, map[string]string) {
	t.Helper()
	var who []string
	for name, at := range sites {
		for client, argv := range clients(t, at.url) {
			if !slices.Contains(skip, client) {
				who = append(who, client+" to "+name)
				s.Commands = append(s.Commands, argv)
			}
		}
	}
	if s.Home == "" {
		s.Home = t.TempDir()
	}
	var r report
	if err := kerneltest.Call(t, "", "", "host", s, &r); err != nil {
		t.Fatal(err)
	}
	failed := make(map[string]string)
	for i, f := range r.Failures {
		if f != "" {
			failed[who[i]] = f
		}
	}
	if changed := changedMounts(r.Before, r.After); len(changed) != 0 || strings.Contains(r.After, source) {
		t.Errorf("the host's mounts changed: %q", changed)
	}
	// One empty directory stays: removing it would take the mount from commands that still run.
	if len(r.Left) != 0 || len(r.Run) > 1 || len(r.Run) == 1 && "/run/"+r.Run[0] != Dir {
		t.Errorf("left on the host: %q in /run, %q in %s", r.Run, r.Left, Dir)
	}
	if r.Writable {
		t.Error("the command can change the certificates")
	}
	return r, failed
}

// changedMounts are the lines of mountinfo that are in one only, but for the mounts that
// other tests have taken away with their directories meanwhile: those go in every namespace.
func changedMounts(before, after string) []string {
	var changed []string
	for line := range strings.Lines(after) {
		if !strings.Contains(before, line) && !othersMount(line) {
			changed = append(changed, "+"+line)
		}
	}
	for line := range strings.Lines(before) {
		if _, err := os.Lstat(strings.Fields(line)[4]); err == nil && !strings.Contains(after, line) && !othersMount(line) {
			changed = append(changed, "-"+line)
		}
	}
	return changed
}

// othersMount tells the mounts of containers and namespaces, which the tests of other packages make meanwhile.
func othersMount(line string) bool {
	at := strings.Fields(line)[4]
	for _, place := range []string{"/run/netns/", filepath.Join(os.TempDir(), "box"), filepath.Join(os.TempDir(), "dock")} {
		if strings.HasPrefix(at, place) {
			return true
		}
	}
	return false
}

func TestInstall(t *testing.T) {
	kerneltest.Require(t)
	ours, root, users, stranger := newSite(t, "ours"), newSite(t, "root"), newSite(t, "the user's"), newSite(t, "stranger")
	system := append([]byte("# roots\n"), root.pem...)

	t.Run("by the environment", func(t *testing.T) {
		t.Parallel()
		_, failed := ask(t, scenario{CA: ours.pem, System: system}, map[string]site{"ours": ours, "root": root})
		delete(failed, "node to root") // it has roots of its own and never reads the machine's bundle
		if len(failed) != 0 {
			t.Fatalf("%v", failed)
		}
	})
	t.Run("by the bundle alone", func(t *testing.T) {
		t.Parallel()
		r, failed := ask(t, scenario{CA: ours.pem, System: bytes.TrimSpace(system), Bare: true}, map[string]site{"ours": ours, "root": root}, "node")
		if len(failed) != 0 || !strings.Contains(r.Mounts, "/etc/ssl/certs/bundle-of-the-machine.pem") {
			t.Fatalf("%v\n%s", failed, r.Mounts)
		}
	})
	t.Run("nobody else", func(t *testing.T) {
		t.Parallel()
		_, failed := ask(t, scenario{CA: ours.pem, System: system}, map[string]site{"stranger": stranger})
		if len(failed) != 5 {
			t.Fatalf("only these refuse: %v", failed)
		}
	})
	t.Run("with the user's variables", func(t *testing.T) {
		t.Parallel()
		home := t.TempDir()
		named := home + "/mine.pem"
		r, failed := ask(t, scenario{
			CA: ours.pem, System: system, Home: home, Files: map[string][]byte{"mine.pem": bytes.TrimSpace(users.pem)}, Read: []string{"mine.pem"},
			Environ: []string{"SSL_CERT_FILE=" + named, "NODE_EXTRA_CA_CERTS=" + named, "CURL_CA_BUNDLE=" + named, "GIT_SSL_CAINFO=" + named},
		}, map[string]site{"ours": ours, "the user's": users})
		if len(failed) != 0 {
			t.Fatalf("%v", failed)
		}
		if r.Read[0] != strings.TrimSpace(string(users.pem)) {
			t.Fatal("the user's file was changed")
		}
	})
	t.Run("a read-only root and a bundle cut short", func(t *testing.T) {
		t.Parallel()
		cut := append(bytes.Clone(system), stranger.pem[:len(stranger.pem)/2]...)
		_, failed := ask(t, scenario{CA: ours.pem, System: cut, ReadOnly: true}, map[string]site{"ours": ours, "root": root})
		delete(failed, "node to root") // it has roots of its own and never reads the machine's bundle
		if len(failed) != 0 {
			t.Fatalf("%v", failed)
		}
	})
	t.Run("certifi", func(t *testing.T) {
		t.Parallel()
		const user, venv = ".local/lib/python3.11/site-packages/certifi/cacert.pem", "env/lib/python3.12/site-packages/pip/_vendor/certifi/cacert.pem"
		home := t.TempDir()
		r, _ := ask(t, scenario{
			CA: ours.pem, System: system, Home: home, Files: map[string][]byte{user: root.pem, venv: users.pem},
			Read: []string{user, venv}, Environ: []string{"VIRTUAL_ENV=" + home + "/env"},
		}, nil)
		for i, want := range [][]byte{root.pem, users.pem} {
			if r.Read[i] != string(want)+string(ours.pem) {
				t.Errorf("certifi's bundle:\n%s", r.Read[i])
			}
		}
	})
	t.Run("what is no bundle", func(t *testing.T) {
		t.Parallel()
		const prose, key = "env/lib/python3.12/site-packages/certifi/cacert.pem", "env/ssl/cert.pem"
		home := t.TempDir()
		kept := map[string][]byte{prose: []byte("root:$y$j9T$:20000:0:99999:7:::\n"), key: append([]byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"), root.pem...)}
		r, _ := ask(t, scenario{CA: ours.pem, System: system, Home: home, Files: kept, Read: []string{prose, key}, Environ: []string{"PATH=" + home + "/env/bin"}}, nil)
		if r.Read[0] != string(kept[prose]) || r.Read[1] != string(kept[key]) {
			t.Errorf("it was covered: %q", r.Read)
		}
		if strings.Contains(r.Mounts, home) {
			t.Errorf("covered: %s", r.Mounts)
		}
	})
}
