// Package trust makes a command trust sluice's CA without being configured: by the
// certificate files it reads, and by the variables that name such files.
package trust

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"iter"
	"path/filepath"
	"slices"
	"strings"
)

// systemBundles are where distributions keep all roots in one file.
var systemBundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Alpine, Arch
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // RHEL, Fedora
	"/etc/pki/tls/certs/ca-bundle.crt",                  // RHEL, usually a link to the one above
	"/etc/ssl/ca-bundle.pem",                            // SUSE
	"/etc/ssl/cert.pem",                                 // Alpine, usually a link to the first
	"/etc/ssl/certs/ca-bundle.crt",                      // Nix
}

// packagedBundles are the copies that Python's packages carry, below a site-packages directory.
var packagedBundles = []string{
	"certifi/cacert.pem", "pip/_vendor/certifi/cacert.pem", "botocore/cacert.pem", "requests/cacert.pem",
}

// sitePackages are where Python's packages are, as patterns. What is put before
// them is a home directory or a virtual environment.
var sitePackages = []string{
	"/usr/lib/python3/dist-packages", "/usr/lib/python3*/site-packages", "/usr/lib64/python3*/site-packages",
	"/usr/local/lib/python3*/dist-packages", "/usr/local/lib/python3*/site-packages",
	"/opt/*/lib/python3*/site-packages", "/opt/*/*/lib/python3*/site-packages",
}

// homeSitePackages are where users keep Python's packages, and the tools that have an environment each.
var homeSitePackages = []string{
	".local/lib/python3*/site-packages", ".pyenv/versions/*/lib/python3*/site-packages", ".local/share/uv/tools/*/lib/python3*/site-packages",
	".local/share/uv/python/*/lib/python3*/site-packages", ".local/share/pipx/venvs/*/lib/python3*/site-packages",
	".local/pipx/venvs/*/lib/python3*/site-packages", ".venv/lib/python3*/site-packages",
}

// imageSitePackages are where images put virtual environments.
var imageSitePackages = []string{
	"/app/.venv/lib/python3*/site-packages", "/app/venv/lib/python3*/site-packages", "/venv/lib/python3*/site-packages",
	"/.venv/lib/python3*/site-packages", "/workspace/.venv/lib/python3*/site-packages", "/code/.venv/lib/python3*/site-packages",
	"/usr/src/app/.venv/lib/python3*/site-packages", "/opt/pipx/venvs/*/lib/python3*/site-packages", "/opt/*/envs/*/lib/python3*/site-packages",
}

// prefixes are where an OpenSSL may be that is not the system's: conda's, Homebrew's and who compiles one.
var prefixes = []string{"/opt/*", "/opt/*/envs/*", "/usr/local", "/home/linuxbrew/.linuxbrew"}

// prefixBundles are the bundles below such a prefix.
var prefixBundles = []string{
	"ssl/cacert.pem", "ssl/cert.pem", "etc/ssl/cert.pem", "etc/openssl@3/cert.pem", "etc/ca-certificates/cert.pem",
}

// Places are where bundles may be besides the usual paths. Each is absolute.
type Places struct {
	Image       bool     // where images have them, other users' homes included
	Homes       []string // home directories
	VirtualEnvs []string // of Python's, and conda's
	JavaHomes   []string // directories of Java's releases
	Files       []string // bundles that an environment names; what holds no certificate is none
}

// bundles returns the certificate bundles and Java's key stores that exist, links resolved, each once. The last ones, from named
// on, only an environment names.
func (s *search) bundles(p Places) (found []string, named int) {
	patterns := slices.Concat(systemBundles, systemKeyStores)
	homes := slices.Clone(javaHomes)
	for _, home := range p.Homes {
		homes = append(homes, filepath.Join(plain(home), ".sdkman/candidates/java/*"))
	}
	if p.Image {
		homes = append(homes, "/home/*/.sdkman/candidates/java/*")
	}
	for _, home := range p.JavaHomes {
		homes = append(homes, plain(home))
	}
	for _, home := range homes {
		for _, store := range homeKeyStores {
			patterns = append(patterns, filepath.Join(home, store))
		}
	}
	patterns = append(patterns, p.python()...)
	known := len(patterns)
	for _, file := range p.Files {
		patterns = append(patterns, plain(file))
	}
	for i, pattern := range patterns {
		if i == known {
			named = len(found)
		}
		for _, m := range s.glob(pattern) {
			if s.matches--; s.matches < 0 {
				break
			}
			// The file itself is what is mounted over, so that every link to it leads to the merged one.
			if real, err := filepath.EvalSymlinks(m); err == nil && !slices.Contains(found, real) {
				found = append(found, real)
			}
		}
	}
	if len(p.Files) == 0 {
		named = len(found)
	}
	return found, named
}

// python are the patterns of the bundles that Python's packages bring, and those of the OpenSSL that a Python may come with.
func (p Places) python() (patterns []string) {
	sites, roots := slices.Clone(sitePackages), slices.Clone(prefixes)
	homes := make([]string, 0, len(p.Homes)+1)
	for _, home := range p.Homes {
		homes = append(homes, plain(home))
	}
	if p.Image {
		sites, homes = append(sites, imageSitePackages...), append(homes, "/home/*")
	}
	for _, home := range homes {
		for _, site := range homeSitePackages {
			sites = append(sites, filepath.Join(home, site))
		}
		roots = append(roots, filepath.Join(home, "*conda3"), filepath.Join(home, "miniforge3"))
	}
	for _, venv := range p.VirtualEnvs {
		roots = append(roots, plain(venv))
	}
	for _, root := range roots[len(prefixes):] {
		sites = append(sites, filepath.Join(root, "lib/python3*/site-packages"))
	}
	for _, site := range sites {
		for _, file := range packagedBundles {
			patterns = append(patterns, filepath.Join(site, file))
		}
	}
	for _, root := range roots {
		for _, file := range prefixBundles {
			patterns = append(patterns, filepath.Join(root, file))
		}
	}
	return patterns
}

// serves tells whether what was found by one of prefixBundles is no bundle: there a server may keep its own certificate, with
// those that vouch for it and its key.
func serves(path string, text []byte) bool {
	if slices.Contains(systemBundles, path) || !slices.ContainsFunc(prefixBundles, func(b string) bool { return strings.HasSuffix(path, "/"+b) }) {
		return false
	}
	if bytes.Contains(text, []byte("PRIVATE KEY-----")) {
		return true
	}
	for block := range certificates(text) {
		c, err := x509.ParseCertificate(block.Bytes)
		return err == nil && !c.IsCA && !bytes.Equal(c.RawIssuer, c.RawSubject)
	}
	return false
}

// plain makes a pattern of a path that matches nothing else.
func plain(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}

// System returns the first of the system's own bundles, or "".
func System() string {
	for _, path := range systemBundles {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			return real
		}
	}
	return ""
}

// Merge returns original with those certificates of ca that it lacks. Merging
// twice changes nothing. A last certificate that was cut short is dropped: OpenSSL
// would refuse the whole file for it.
func Merge(original, ca []byte) []byte {
	out := bytes.Clone(original)
	if last := bytes.LastIndex(out, []byte("-----BEGIN ")); last >= 0 {
		if block, _ := pem.Decode(out[last:]); block == nil {
			out = out[:last]
		}
	}
	for block := range absent(out, ca) {
		if len(out) > 0 && out[len(out)-1] != '\n' {
			out = append(out, '\n')
		}
		out = append(out, pem.EncodeToMemory(block)...)
	}
	return out
}

// absent are the certificates of ca that a bundle does not have, however it breaks its lines. They are looked for as text: to
// decode every certificate of a bundle would be half of what it takes to start a command.
func absent(bundle, ca []byte) iter.Seq[*pem.Block] {
	return func(yield func(*pem.Block) bool) {
		have := encoded(bundle)
		for block := range certificates(ca) {
			if !have[base64.StdEncoding.EncodeToString(block.Bytes)] && !yield(block) {
				return
			}
		}
	}
}

// encoded are the certificates of a bundle as they stand there, without the line breaks.
func encoded(bundle []byte) map[string]bool {
	lines := make([]byte, 0, len(bundle))
	for line := range bytes.Lines(bundle) {
		lines = append(lines, bytes.TrimSpace(line)...)
	}
	all := make(map[string]bool)
	for _, text, more := strings.Cut(string(lines), begins); more; _, text, more = strings.Cut(text, begins) {
		if body, end, ended := strings.Cut(text, "-"); ended && strings.HasPrefix(end, "----END") {
			all[body] = true
		}
	}
	return all
}

// begins is the end of the line before a certificate, whatever kind it is said to be of.
const begins = "CERTIFICATE-----"

// Certificates returns the certificates of a PEM file and nothing else of it: the
// file may be one that its reader must not see.
func Certificates(data []byte) []byte {
	var out []byte
	for block := range certificates(data) {
		out = append(out, pem.EncodeToMemory(block)...)
	}
	return out
}

// hasCertificate tells whether a file is a bundle, by the first certificate in it.
func hasCertificate(data []byte) bool {
	for range certificates(data) {
		return true
	}
	return false
}

// certificates are decoded as they are asked for.
func certificates(data []byte) iter.Seq[*pem.Block] {
	return func(yield func(*pem.Block) bool) {
		for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
			if block.Type != "CERTIFICATE" && block.Type != "TRUSTED CERTIFICATE" {
				continue
			}
			if !yield(&pem.Block{Type: block.Type, Bytes: block.Bytes}) {
				return
			}
		}
	}
}
