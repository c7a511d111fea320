package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

func TestMain(m *testing.M) {
	kerneltest.Main(map[string]kerneltest.Child{"host": hostChild, "inside": insideChild, "fetch": fetchChild, "service": serviceChild})
	os.Exit(m.Run())
}

// site is a CA of the test's own and a server that it signed for.
type site struct {
	pem []byte
	url string
}

func newSite(t *testing.T, name string) site {
	t.Helper()
	sign := func(c, issuer *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if by == nil {
			issuer, by = c, key
		}
		c.SerialNumber, c.BasicConstraintsValid = big.NewInt(time.Now().UnixNano()), true
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, c, issuer, &key.PublicKey, by)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	root, rootKey := sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	leaf, key := sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, root, rootKey)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		switch r.URL.Path { // a repository, as a plain file server shows one
		case "/repo.git/info/refs":
			fmt.Fprintf(w, "%s\trefs/heads/main\n", strings.Repeat("a", 40))
		case "/repo.git/HEAD":
			fmt.Fprint(w, "ref: refs/heads/main\n")
		case "/revoked.crl":
			list, err := revoked()
			if err != nil {
				panic(err)
			}
			_, _ = w.Write(list)
		}
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // refusals are what some of the tests are for
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return site{
		pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}),
		url: strings.Replace(s.URL, "127.0.0.1", "localhost", 1) + "/repo.git/info/refs",
	}
}

// scenario is a machine, made of mounts, and what is asked on it.
type scenario struct {
	CA, System []byte            // ours, and the machine's bundle
	Files      map[string][]byte // below Home
	Environ    []string
	Home       string // a directory of the test's
	ReadOnly   bool   // the root file system, not /run
	Bare       bool   // the commands run without the environment that Install made
	Commands   [][]string
	Read       []string // files below Home to read inside
}

type report struct {
	Environ  []string
	Failures []string // of Commands, "" for one that succeeded
	Read     []string
	Mounts   string // inside
	Before   string // the host's mounts
	After    string
	Run      []string // names in /run that are there after and were not before
	Left     []string // what Dir holds on the host
	Writable bool     // the certificates, inside
}

// hostChild is a machine whose mounts are propagated, as systemd has them.
func hostChild(in json.RawMessage) (any, error) {
	var s scenario
	if err := json.Unmarshal(in, &s); err != nil {
		return nil, err
	}
	// The process was started for this and is alone in the mount namespace that it re-executes into.
	if os.Getenv("SLUICE_TRUST_HOST") == "" {
		return reexec("host", in, "SLUICE_TRUST_HOST=1")
	}
	if err := s.prepare(); err != nil {
		return nil, err
	}
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	was, err := names("/run")
	if err != nil {
		return nil, err
	}
	raw, err := reexec("inside", in)
	if err != nil {
		return nil, err
	}
	var r report
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, err
	}
	after, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	r.Before, r.After = string(before), string(after)
	is, err := names("/run")
	if err != nil {
		return nil, err
	}
	for name := range is {
		if !was[name] {
			r.Run = append(r.Run, name)
		}
	}
	left, err := names(Dir)
	for name := range left {
		r.Left = append(r.Left, name)
	}
	return r, err
}

func names(dir string) (map[string]bool, error) {
	entries, err := os.ReadDir(dir)
	out := make(map[string]bool)
	for _, e := range entries {
		out[e.Name()] = true
	}
	return out, err
}

// reexec runs a child of this binary in a new mount namespace.
func reexec(child string, in json.RawMessage, env ...string) (json.RawMessage, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(env, "SLUICE_KERNELTEST_CHILD="+child)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", child, err, stderr.Bytes())
	}
	return out, nil
}

// prepare mounts the machine together: nothing of the real one is changed.
func (s scenario) prepare() error {
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
	}{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE},
		{"machine", "/run", "tmpfs", 0},
		{"machine", "/etc/ssl/certs", "tmpfs", 0},
		{"", "/", "", unix.MS_REC | unix.MS_SHARED},
	} {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	// The bundle is a link, as on many distributions.
	if err := os.WriteFile("/etc/ssl/certs/bundle-of-the-machine.pem", s.System, 0o644); err != nil {
		return err
	}
	if err := os.Symlink("bundle-of-the-machine.pem", "/etc/ssl/certs/ca-certificates.crt"); err != nil {
		return err
	}
	for name, data := range s.Files {
		path := filepath.Join(s.Home, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
	}
	if s.ReadOnly {
		return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	}
	return nil
}

// insideChild does what the second stage of `sluice run` does, and is the command.
func insideChild(in json.RawMessage) (any, error) {
	var s scenario
	if err := json.Unmarshal(in, &s); err != nil {
		return nil, err
	}
	env, err := Install(s.CA, s.Environ, s.Home)
	if err != nil {
		return nil, err
	}
	r := report{Environ: env}
	for _, argv := range s.Commands {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1"}
		if !s.Bare {
			cmd.Env = append(cmd.Env, env...)
		}
		if argv[0] == "/proc/self/exe" {
			cmd.Env = append(cmd.Env, "SLUICE_KERNELTEST_CHILD=fetch")
			cmd.Stdin = strings.NewReader(argv[1])
		}
		failure := ""
		if out, err := cmd.CombinedOutput(); err != nil {
			failure = fmt.Sprintf("%v: %s", err, out)
		}
		r.Failures = append(r.Failures, failure)
	}
	for _, name := range s.Read {
		data, err := os.ReadFile(filepath.Join(s.Home, name))
		if err != nil {
			return nil, err
		}
		r.Read = append(r.Read, string(data))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	r.Mounts = string(mounts)
	for _, path := range []string{filepath.Join(Dir, "new"), "/etc/ssl/certs/ca-certificates.crt"} {
		if f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644); err == nil {
			r.Writable = true
			_ = f.Close()
		}
	}
	return r, err
}

// fetchChild gets a URL with Go's own defaults.
func fetchChild(in json.RawMessage) (any, error) {
	var url string
	if err := json.Unmarshal(in, &url); err != nil {
		return nil, err
	}
	answer, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	return io.ReadAll(answer.Body)
}
