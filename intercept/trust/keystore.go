package trust

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pavlo-v-chernykh/keystore-go/v4"
	"golang.org/x/crypto/cryptobyte"
	"software.sslmate.com/src/go-pkcs12"
)

// systemKeyStores are where distributions keep Java's certificates for all of its releases.
var systemKeyStores = []string{
	"/etc/ssl/certs/java/cacerts",              // Debian, Ubuntu, Alpine
	"/etc/pki/ca-trust/extracted/java/cacerts", // RHEL, Fedora
	"/etc/pki/java/cacerts",                    // RHEL, usually a link to the one above
	"/var/lib/ca-certificates/java-cacerts",    // SUSE
	"/etc/ssl/certs/adoptium/cacerts",          // Temurin's packages
}

// javaHomes are where releases of Java are, as patterns.
var javaHomes = []string{
	"/usr/lib/jvm/*", "/usr/java/*", "/usr/local/*", "/opt/*", "/opt/java/*", "/opt/bitnami/*",
}

// homeKeyStores are the key stores of one release. The first that exists counts for TLS; up to Java 8 they may be in jre.
var homeKeyStores = []string{
	"lib/security/jssecacerts", "lib/security/cacerts", "jre/lib/security/jssecacerts", "jre/lib/security/cacerts",
}

// storePassword is the one that Java's own key stores have. It protects nothing: everybody knows it.
const storePassword = "changeit"

// magicJKS begins a key store of the type JKS.
const magicJKS = 0xfeedfeed

// isKeyStore tells whether a file is a key store of Java's, of a type that can be added to.
func isKeyStore(text []byte) bool { return isJKS(text) || isPKCS12(text) }

func isJKS(text []byte) bool {
	return len(text) >= 4 && binary.BigEndian.Uint32(text) == magicJKS
}

// MergeAny is Merge for a file that may also be a key store of Java's, of type JKS or PKCS #12: what is in there
// stays, and is found by the same names.
func MergeAny(original, ca []byte) ([]byte, error) {
	switch {
	case isJKS(original):
		return mergeJKS(original, ca)
	case isPKCS12(original):
		return mergePKCS12(original, ca)
	}
	return Merge(original, ca), nil
}

// missing are the certificates of ca (PEM) that a key store does not have as they are.
func missing(store, ca []byte) [][]byte {
	var all [][]byte
	for block := range certificates(ca) {
		if !bytes.Contains(store, block.Bytes) {
			all = append(all, block.Bytes)
		}
	}
	return all
}

// entryName is what a certificate of ours is called in a key store.
func entryName(certificate []byte) string {
	sum := sha256.Sum256(certificate)
	return "sluice-" + hex.EncodeToString(sum[:8])
}

func mergeJKS(original, ca []byte) ([]byte, error) {
	if err := checkJKS(original); err != nil {
		return nil, err
	}
	store := keystore.New(keystore.WithCaseExactAliases(), keystore.WithOrderedAliases())
	if err := store.Load(bytes.NewReader(original), []byte(storePassword)); err != nil {
		return nil, fmt.Errorf("a key store with a password other than %q, or damaged: %w", storePassword, err)
	}
	for _, der := range missing(original, ca) {
		entry := keystore.TrustedCertificateEntry{CreationTime: time.Now(), Certificate: keystore.Certificate{Type: "X.509", Content: der}}
		if err := store.SetTrustedCertificateEntry(entryName(der), entry); err != nil {
			return nil, fmt.Errorf("add to the key store: %w", err)
		}
	}
	var out bytes.Buffer
	if err := store.Store(&out, []byte(storePassword)); err != nil {
		return nil, fmt.Errorf("write the key store: %w", err)
	}
	return out.Bytes(), nil
}

// checkJKS goes through a key store's lengths. What reads it allocates as much as they say, and they come from an agent.
func checkJKS(text []byte) error {
	const privateKey, trusted = 1, 2 // tags of entries
	damaged := errors.New("a damaged key store")
	var magic, version, entries uint32
	s := cryptobyte.String(text)
	if !s.ReadUint32(&magic) || !s.ReadUint32(&version) || !s.ReadUint32(&entries) || version < 1 || version > 2 {
		return damaged
	}
	skip := func() bool { // what a length of four bytes is before
		var n uint32
		return s.ReadUint32(&n) && uint64(n) <= uint64(len(s)) && s.Skip(int(n))
	}
	name := func() bool {
		var text cryptobyte.String
		return s.ReadUint16LengthPrefixed(&text)
	}
	certificate := func() bool { return (version == 1 || name()) && skip() }
	for range entries {
		var tag, chain uint32
		if !s.ReadUint32(&tag) || !name() || !s.Skip(8) {
			return damaged
		}
		switch tag {
		case privateKey:
			if !skip() || !s.ReadUint32(&chain) {
				return damaged
			}
		case trusted:
			chain = 1
		default:
			return damaged
		}
		for range chain {
			if !certificate() {
				return damaged
			}
		}
	}
	if len(s) != 20 { // SHA-1
		return damaged
	}
	return nil
}

// pfx is a PFX of PKCS #12 (RFC 7292 section 4), as far as it is added to.
type pfx struct {
	Version  int
	AuthSafe contentInfo
	MacData  asn1.RawValue `asn1:"optional"`
}

// contentInfo is PKCS #7's (RFC 2315 section 7).
type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"tag:0,explicit,optional"`
}

// unsealed is a pfx without a MAC.
type unsealed struct {
	Version  int
	AuthSafe struct {
		Type    asn1.ObjectIdentifier
		Content []byte `asn1:"tag:0,explicit"`
	}
}

// oidData is the type of unencrypted content (RFC 2315 section 14).
var oidData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}

func isPKCS12(text []byte) bool {
	_, err := safesOf(text)
	return err == nil
}

// safesOf are the parts of a PFX that is sealed by a password, or by nothing: each may be encrypted or not.
func safesOf(text []byte) ([]asn1.RawValue, error) {
	var p pfx
	rest, err := asn1.Unmarshal(text, &p)
	if err != nil {
		return nil, err
	}
	if len(rest) != 0 || p.Version != 3 || !p.AuthSafe.Type.Equal(oidData) {
		return nil, errors.New("no PFX that a password seals")
	}
	var content []byte
	if _, err := asn1.Unmarshal(p.AuthSafe.Content.Bytes, &content); err != nil {
		return nil, err
	}
	var safes []asn1.RawValue
	_, err = asn1.Unmarshal(content, &safes)
	return safes, err
}

// mergePKCS12 adds a part that is not encrypted. The others stay as they are, so that no password is needed, and
// the MAC that one would be needed for is left out: it is optional, and Java reads a store without one whatever password it is given.
func mergePKCS12(original, ca []byte) ([]byte, error) {
	safes, err := safesOf(original)
	if err != nil {
		return nil, fmt.Errorf("read the key store: %w", err)
	}
	var entries []pkcs12.TrustStoreEntry
	for _, der := range missing(original, ca) {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("add to the key store: %w", err)
		}
		entries = append(entries, pkcs12.TrustStoreEntry{Cert: certificate, FriendlyName: entryName(der)})
	}
	if len(entries) == 0 {
		return slices.Clone(original), nil
	}
	ours, err := pkcs12.Passwordless.EncodeTrustStoreEntries(entries, "")
	if err != nil {
		return nil, fmt.Errorf("add to the key store: %w", err)
	}
	added, err := safesOf(ours)
	if err != nil {
		return nil, fmt.Errorf("add to the key store: %w", err)
	}
	out := unsealed{Version: 3}
	out.AuthSafe.Type = oidData
	if out.AuthSafe.Content, err = asn1.Marshal(append(safes, added...)); err != nil {
		return nil, fmt.Errorf("write the key store: %w", err)
	}
	return asn1.Marshal(out)
}
