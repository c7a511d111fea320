package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func certificate(name string) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(name)})
}

func countCertificates(text []byte) (n int) {
	for range certificates(text) {
		n++
	}
	return n
}

func TestMergeAddsOnce(t *testing.T) {
	t.Parallel()
	original := append([]byte("# a comment\n"), certificate("root")...)
	ca := append(certificate("ours"), certificate("second")...)
	once := Merge(original, ca)
	if !strings.HasPrefix(string(once), string(original)) {
		t.Fatal("the original was changed")
	}
	if n := countCertificates(once); n != 3 {
		t.Fatalf("%d certificates, want 3", n)
	}
	if twice := Merge(once, ca); string(twice) != string(once) {
		t.Fatal("merging twice is not merging once")
	}
	unended := []byte(strings.TrimSuffix(string(certificate("root")), "\n"))
	if n := countCertificates(Merge(unended, ca)); n != 3 {
		t.Fatalf("a file without a last line break: %d certificates, want 3", n)
	}
}

// TestHolds whatever a bundle is like, and of one that Merge has made without taking either apart: there is a CA for each host
// that was bound by itself, and the targets are listed with a look at each one's bundle.
func TestHolds(t *testing.T) { // not in parallel: it counts allocations
	var system, ca []byte
	for i := range 100 {
		system, ca = append(system, certificate(fmt.Sprint("root ", i))...), append(ca, certificate(fmt.Sprint("ours ", i))...)
	}
	merged := Merge(system, ca)
	if n := testing.AllocsPerRun(10, func() { holds(merged, ca) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	last := certificate("ours 99")
	for name, c := range map[string]struct {
		text []byte
		want bool
	}{
		"merged": {merged, true}, "the system's": {system, false}, "all but the last": {Merge(system, bytes.TrimSuffix(ca, last)), false},
		"the last before the others": {Merge(last, ca), true}, "with other line breaks": {bytes.ReplaceAll(merged, []byte("\n"), []byte("\r\n")), true},
		"between others": {slices.Concat(system, ca, system), true},
	} {
		if got := holds(c.text, ca); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func BenchmarkHolds(b *testing.B) {
	var system, ca []byte
	for i := range 1000 {
		body := []byte(strings.Repeat(fmt.Sprintf("%08d", i), 80))
		if i < 150 {
			system = append(system, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: append([]byte("root"), body...)})...)
		}
		ca = append(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: body})...)
	}
	for name, text := range map[string][]byte{"covered": Merge(system, ca), "not covered": system, "otherwise": Merge(ca[len(ca)/2:], ca)} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				holds(text, ca)
			}
		})
	}
}

// TestWhatAServerKeeps: a server's own certificate is not mistaken for a bundle, where a bundle is only guessed to be.
func TestWhatAServerKeeps(t *testing.T) {
	t.Parallel()
	root, leaf := issued(t, true, true), issued(t, false, false)
	key := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("a key")})
	for _, c := range []struct {
		path string
		text []byte
		want bool
	}{
		{"/opt/conda/ssl/cacert.pem", slices.Concat(root, root), false},
		{"/opt/conda/ssl/cacert.pem", certificate("what is no certificate"), false},
		{"/usr/local/ssl/cert.pem", issued(t, false, true), false}, // signed by itself, and trusted for that
		{"/usr/local/ssl/cert.pem", slices.Concat(leaf, root), true},
		{"/opt/app/ssl/cert.pem", slices.Concat(key, root), true},
		{"/etc/ssl/cert.pem", slices.Concat(leaf, root), false}, // the system's
		{"/app/.venv/lib/python3.12/site-packages/certifi/cacert.pem", slices.Concat(leaf, root), false},
	} {
		if got := serves(c.path, c.text); got != c.want {
			t.Errorf("%s: %t, want %t", c.path, got, c.want)
		}
	}
}

// issued is a certificate of an authority's or not, signed by itself or by another one.
func issued(t *testing.T, authority, itself bool) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "one"}, NotAfter: time.Now().Add(time.Hour), IsCA: authority, BasicConstraintsValid: true,
	}
	by := c
	if !itself {
		by = &x509.Certificate{Subject: pkix.Name{CommonName: "another"}}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestMergeOfBrokenBundles(t *testing.T) {
	t.Parallel()
	root, ca := string(certificate("a root of some length, so that there is something to cut")), certificate("ours")
	for cut := range len(root) - 1 { // without the line break it is whole
		merged := Merge([]byte(root+root[:cut]), ca)
		if !strings.HasPrefix(string(merged), root) || !strings.HasSuffix(string(merged), "\n"+string(ca)) {
			t.Fatalf("cut at %d: %s", cut, merged)
		}
		if n := strings.Count(string(merged), "BEGIN CERTIFICATE-"); n != 2 {
			t.Fatalf("cut at %d: %d certificates, want the whole one and ours:\n%s", cut, n, merged)
		}
		if twice := Merge(merged, ca); string(twice) != string(merged) {
			t.Fatalf("cut at %d: merging twice is not merging once", cut)
		}
	}
	crlf := strings.ReplaceAll(root, "\n", "\r\n")
	wide := string(bytes.Join(bytes.Fields(ca), nil)) // in one line, as some tools write it
	wide = strings.NewReplacer("BEGINCERTIFICATE-----", "BEGIN CERTIFICATE-----\n", "-----ENDCERTIFICATE-----", "\n-----END CERTIFICATE-----\n").Replace(wide)
	for original, want := range map[string]int{
		"": 1, "\n": 1, "no certificates\n": 1, crlf: 2, root + root: 3,
		root + wide: 2, root + strings.ReplaceAll(string(ca), "\n", "\r\n"): 2, wide + root: 2, // it is there
		"# " + strings.ReplaceAll(string(ca), "\n", "\n# ") + "\n" + root: 2, // it is not
	} {
		if n := countCertificates(Merge([]byte(original), ca)); n != want {
			t.Errorf("%q: %d certificates, want %d", original, n, want)
		}
	}
	if got := Merge([]byte(root), nil); string(got) != root {
		t.Errorf("without a CA: %s", got)
	}
}

// TestEnvironmentNames names a file by each variable: it is merged, under its own
// name, and nothing else of the environment changes.
func TestEnvironmentNames(t *testing.T) {
	t.Parallel()
	ca, system := certificate("ours"), certificate("root")
	read := func(path string) ([]byte, error) { return certificate("in " + path), nil }
	for _, name := range append([]string{nodeExtra, certFile}, replaced...) {
		env, made, err := plan([]string{"A=1", name + "=/first", name + "=/mine", "B=" + name}, "/d", ca, system, read)
		if err != nil {
			t.Fatal(err)
		}
		if env[0] != "A=1" || env[1] != "B="+name || strings.Count(strings.Join(env, "\n"), name+"=") != 1 {
			t.Errorf("%s: %v", name, env)
		}
		file := strings.TrimPrefix(value(env, name), "/d/")
		if want := string(certificate("in /mine")) + string(ca); string(made[file]) != want {
			t.Errorf("%s leads to %s:\n%s", name, file, made[file])
		}
		// An empty one is as good as none.
		if env, _, err = plan([]string{name + "="}, "/d", ca, system, read); err != nil || value(env, nodeExtra) != "/d/ca.pem" || value(env, certFile) != "/d/bundle.pem" {
			t.Errorf("%s, empty: %v, %v", name, env, err)
		}
	}
	if env, made, err := plan([]string{"REQUESTS_CA_BUNDLE=/a", "PIP_CERT=/b"}, "/d", ca, system, read); err != nil || len(made) != 4 {
		t.Errorf("got %v, %d files, %v", env, len(made), err)
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	read := func(path string) ([]byte, error) {
		if path == "/gone" {
			return nil, os.ErrNotExist
		}
		return append([]byte("secret words\n"), certificate("users "+path)...), nil
	}
	ca, system := certificate("ours"), certificate("root")

	env, made, err := plan([]string{"HOME=/h"}, "/d", ca, system, read)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(env, " "); got != "HOME=/h NODE_EXTRA_CA_CERTS=/d/ca.pem SSL_CERT_FILE=/d/bundle.pem" {
		t.Fatalf("got %s", got)
	}
	if countCertificates(made["ca.pem"]) != 1 || countCertificates(made["bundle.pem"]) != 2 {
		t.Fatal("the files do not hold what their readers need")
	}

	env, made, err = plan([]string{"SSL_CERT_FILE=/mine", "CURL_CA_BUNDLE=/other", "SSL_CERT_DIR=/certs"}, "/d", ca, system, read)
	if err != nil {
		t.Fatal(err)
	}
	if value(env, "SSL_CERT_FILE") != "/d/ssl_cert_file.pem" || value(env, "CURL_CA_BUNDLE") != "/d/curl_ca_bundle.pem" || value(env, "SSL_CERT_DIR") != "/certs" {
		t.Fatalf("got %v", env)
	}
	merged := made["ssl_cert_file.pem"]
	if countCertificates(merged) != 2 || strings.Contains(string(merged), "secret") {
		t.Fatal("a file that the user named must be passed on with its certificates and nothing else")
	}

	if _, _, err := plan([]string{"SSL_CERT_FILE=/gone"}, "/d", ca, system, read); err == nil || !strings.Contains(err.Error(), "SSL_CERT_FILE names /gone") {
		t.Fatalf("got %v", err)
	}
	if _, _, err := plan(nil, "/d", ca, nil, func(string) ([]byte, error) { return nil, errors.New("not called") }); err != nil {
		t.Fatalf("without a system bundle: %v", err)
	}
}
