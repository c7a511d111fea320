package trust

import (
	"encoding/pem"
	"errors"
	"os"
	"strings"
	"testing"
)

func certificate(name string) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(name)})
}

func TestMergeAddsOnce(t *testing.T) {
	t.Parallel()
	original := append([]byte("# a comment\n"), certificate("root")...)
	ca := append(certificate("ours"), certificate("second")...)
	once := Merge(original, ca)
	if !strings.HasPrefix(string(once), string(original)) {
		t.Fatal("the original was changed")
	}
	if n := len(certificates(once)); n != 3 {
		t.Fatalf("%d certificates, want 3", n)
	}
	if twice := Merge(once, ca); string(twice) != string(once) {
		t.Fatal("merging twice is not merging once")
	}
	unended := []byte(strings.TrimSuffix(string(certificate("root")), "\n"))
	if n := len(certificates(Merge(unended, ca))); n != 3 {
		t.Fatalf("a file without a last line break: %d certificates, want 3", n)
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
	if len(certificates(made["ca.pem"])) != 1 || len(certificates(made["bundle.pem"])) != 2 {
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
	if len(certificates(merged)) != 2 || strings.Contains(string(merged), "secret") {
		t.Fatal("a file that the user named must be passed on with its certificates and nothing else")
	}

	if _, _, err := plan([]string{"SSL_CERT_FILE=/gone"}, "/d", ca, system, read); err == nil || !strings.Contains(err.Error(), "SSL_CERT_FILE names /gone") {
		t.Fatalf("got %v", err)
	}
	if _, _, err := plan(nil, "/d", ca, nil, func(string) ([]byte, error) { return nil, errors.New("not called") }); err != nil {
		t.Fatalf("without a system bundle: %v", err)
	}
}
