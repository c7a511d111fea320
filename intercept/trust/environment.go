package trust

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	// nodeExtra is the one variable whose file is read in addition to the client's own roots.
	nodeExtra = "NODE_EXTRA_CA_CERTS"
	// certFile is OpenSSL's, and also read by Go, rustls and httpx; it replaces their default.
	certFile = "SSL_CERT_FILE"
)

// replaced are the variables that name a bundle of one client or another. Where a
// user has set one, their file would hide the mounted bundle from that client.
var replaced = []string{
	"AWS_CA_BUNDLE", "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", "CODEX_CA_CERTIFICATE", "CURL_CA_BUNDLE", "DENO_CERT",
	"GIT_SSL_CAINFO", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "HTTPLIB2_CA_CERTS", "NIX_SSL_CERT_FILE",
	"NPM_CONFIG_CAFILE", "npm_config_cafile", "PIP_CERT", "REQUESTS_CA_BUNDLE",
}

// files are certificate files by the name they get in sluice's directory.
type files map[string][]byte

// plan decides what the command's environment says and which files it leads to, in
// a directory dir: the CA alone for clients that add to their own roots, the
// system's bundle with the CA for those that replace them, and for each file that
// the user named the same certificates with the CA. SSL_CERT_DIR is left alone:
// what reads it reads SSL_CERT_FILE as well.
func plan(environ []string, dir string, ca, system []byte, read func(string) ([]byte, error)) ([]string, files, error) {
	out := slices.Clone(environ)
	made := files{"ca.pem": ca}
	if len(system) > 0 {
		made["bundle.pem"] = Merge(system, ca)
	}
	for _, name := range append([]string{nodeExtra, certFile}, replaced...) {
		path := value(environ, name)
		switch {
		case path != "":
			data, err := read(path)
			if err != nil {
				return nil, nil, fmt.Errorf("%s names %s, which cannot be read: %s: unset it or mend it", name, path, err)
			}
			file := strings.ToLower(name) + ".pem"
			made[file] = Merge(Certificates(data), ca)
			out = set(out, name, filepath.Join(dir, file))
		case name == nodeExtra:
			out = set(out, name, filepath.Join(dir, "ca.pem"))
		case name == certFile && made["bundle.pem"] != nil:
			out = set(out, name, filepath.Join(dir, "bundle.pem"))
		}
	}
	return out, made, nil
}

func value(environ []string, name string) string {
	for _, entry := range slices.Backward(environ) {
		if v, ok := strings.CutPrefix(entry, name+"="); ok {
			return v
		}
	}
	return ""
}

func set(environ []string, name, value string) []string {
	environ = slices.DeleteFunc(environ, func(entry string) bool { return strings.HasPrefix(entry, name+"=") })
	return append(environ, name+"="+value)
}

// write puts the files into a directory, readable by everyone.
func (f files) write(dir string) error {
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if err := os.WriteFile(filepath.Join(dir, name), f[name], 0o644); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}
