package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// keytool runs Java's own, in a process's namespace if it is not 0.
func keytool(t *testing.T, in int, args ...string) (string, error) {
	t.Helper()
	argv := append([]string{"keytool", "-J-Xshare:auto", "-J-XX:TieredStopAtLevel=1"}, args...)
	if in != 0 {
		argv = append([]string{"nsenter", "--mount", "--target", itoa(in)}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "JAVA_HOME=" + os.Getenv("JAVA_HOME")}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// listed are the names and fingerprints that keytool finds in a store.
func listed(t *testing.T, in int, args ...string) []string {
	t.Helper()
	said, err := keytool(t, in, append([]string{"-list"}, args...)...)
	if err != nil {
		t.Fatalf("keytool -list %q: %v: %s", args, err, said)
	}
	var all []string
	lines := strings.Split(said, "\n")
	for i, line := range lines { // NAME, DATE, trustedCertEntry,\nCertificate fingerprint (SHA-256): ...
		if name, _, ok := strings.Cut(line, ", "); ok && strings.Contains(line, "trustedCertEntry") {
			_, print, _ := strings.Cut(lines[i+1], "): ")
			all = append(all, name+" "+print)
		}
	}
	sort.Strings(all)
	return all
}

func requireKeytool(t *testing.T) {
	t.Helper()
	kerneltest.Require(t)
	if _, err := exec.LookPath("keytool"); err != nil {
		if os.Getenv("SLUICE_KERNEL_TESTS") == "require" {
			t.Fatal("keytool is not installed, scripts/deps.sh does it")
		}
		t.Skip("keytool is not installed, scripts/deps.sh does it")
	}
}

// cacerts is the key store that this machine's Java trusts by.
func cacerts(t *testing.T) string {
	t.Helper()
	tool, err := exec.LookPath("keytool")
	if err != nil {
		t.Fatal(err)
	}
	if tool, err = filepath.EvalSymlinks(tool); err != nil {
		t.Fatal(err)
	}
	for _, name := range homeKeyStores {
		if real, err := filepath.EvalSymlinks(filepath.Join(filepath.Dir(filepath.Dir(tool)), name)); err == nil {
			return real
		}
	}
	t.Fatalf("no key store beside %s", tool)
	return ""
}

// Java reads what is written, of either type, and whatever password it was given: the entries that there were, and ours.
func TestJavaReadsMergedKeyStores(t *testing.T) {
	requireKeytool(t)
	t.Parallel()
	ca := newSite(t, "one.example").pem
	dir := t.TempDir()
	source := cacerts(t)
	before := listed(t, 0, "-keystore", source, "-storepass", storePassword)
	if len(before) < 3 {
		t.Fatalf("%d certificates in %s", len(before), source)
	}
	for name, convert := range map[string][]string{
		"jks":          {"-deststoretype", "JKS", "-deststorepass", storePassword},
		"pkcs12":       {"-deststoretype", "PKCS12", "-deststorepass", storePassword},
		"another word": {"-deststoretype", "PKCS12", "-deststorepass", "another"},
		"passwordless": {
			"-deststoretype", "PKCS12", "-deststorepass", storePassword,
			"-J-Dkeystore.pkcs12.certProtectionAlgorithm=NONE", "-J-Dkeystore.pkcs12.macAlgorithm=NONE",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(dir, name)
			said, err := keytool(t, 0, append([]string{
				"-importkeystore", "-noprompt", "-srckeystore", source, "-srcstorepass", storePassword, "-destkeystore", file,
			}, convert...)...)
			if err != nil {
				t.Fatalf("%v: %s", err, said)
			}
			original, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !isKeyStore(original) {
				t.Fatal("it is not known for a key store")
			}
			merged, err := MergeAny(original, ca)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, merged, 0o600); err != nil {
				t.Fatal(err)
			}
			after := listed(t, 0, "-keystore", file, "-storepass", convert[3])
			ours := slices.DeleteFunc(slices.Clone(after), func(entry string) bool { return slices.Contains(before, entry) })
			if len(after) != len(before)+1 || len(ours) != 1 || !strings.HasPrefix(ours[0], "sluice-") {
				t.Errorf("%d entries, %d before; ours: %q", len(after), len(before), ours)
			}
		})
	}
}

// A Java that is started in a covered namespace trusts the site by the key store that it has by default, and
// did not before. keytool fetches a list of revoked certificates, as any program of Java's would.
func TestJavaTrustsInARunningNamespace(t *testing.T) {
	requireKeytool(t)
	t.Parallel()
	s := newSite(t, "one.example")
	pid := running(t, 0, nil, idleShell...)
	fetch := func() error {
		said, err := keytool(t, pid, "-printcrl", "-file", strings.TrimSuffix(s.url, "/repo.git/info/refs")+"/revoked.crl")
		if err == nil && !strings.Contains(said, "CN=revoker") {
			t.Errorf("keytool said %s", said)
		}
		return err
	}
	if fetch() == nil {
		t.Fatal("it is trusted before")
	}
	before := count(t, pid)
	bundles, err := Cover(pid, nil, nil, s.pem)
	if err != nil || !slices.Contains(bundles, cacerts(t)) {
		t.Fatalf("%q, %v", bundles, err)
	}
	if err := fetch(); err != nil {
		t.Error(err)
	}
	if err := Uncover(pid); err != nil || count(t, pid) != before {
		t.Errorf("%v, %d mounts, want %d", err, count(t, pid), before)
	}
	if fetch() == nil {
		t.Error("it is trusted afterwards")
	}
}

// A Java that runs is named if it began before, or reads another store.
func TestJavaThatDoesNotTrust(t *testing.T) {
	requireKeytool(t)
	t.Parallel()
	ca := newSite(t, "one.example").pem
	dir := t.TempDir()
	own := filepath.Join(dir, "own.jks")
	if err := os.WriteFile(own, trustStore(t, "another", "root"), 0o644); err != nil {
		t.Fatal(err)
	}
	// It asks for a password, and waits for one.
	idle := func(in int, env []string, more ...string) int {
		return running(t, in, env, append([]string{"sh", "-c", `exec keytool -storepasswd -keystore "$0" "$@" 2>&1`, cacerts(t)}, more...)...)
	}
	base := running(t, 0, nil, idleShell...)
	before := idle(base, nil)
	if _, err := Cover(base, []int{before}, nil, ca); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		pid  int
		says string
	}{
		"before":        {before, "began before"},
		"after":         {idle(base, nil), ""},
		"another store": {idle(base, nil, "-J-Djavax.net.ssl.trustStore="+own), own},
		"by a variable": {idle(base, []string{"JAVA_TOOL_OPTIONS=-Djavax.net.ssl.trustStore=" + own}), own},
	} {
		found := FindUntrusting([]int{tt.pid}, ca)
		if tt.says == "" && len(found) != 0 || tt.says != "" && (len(found) != 1 || !strings.Contains(found[0].Reason, tt.says)) {
			t.Errorf("%s: %+v", name, found)
		}
	}
}

// revoked is an empty list of revoked certificates, of an issuer that nobody knows.
func revoked() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	issuer := &x509.Certificate{Subject: pkix.Name{CommonName: "revoker"}, KeyUsage: x509.KeyUsageCRLSign, SubjectKeyId: []byte{1}}
	return x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
	}, issuer, key)
}
