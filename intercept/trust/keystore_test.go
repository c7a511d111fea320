package trust

import (
	"bytes"
	"encoding/binary"
	"encoding/pem"
	"testing"

	"github.com/pavlo-v-chernykh/keystore-go/v4"
)

func trustStore(t testing.TB, password string, aliases ...string) []byte {
	t.Helper()
	store := keystore.New(keystore.WithCaseExactAliases())
	for _, alias := range aliases {
		entry := keystore.TrustedCertificateEntry{Certificate: keystore.Certificate{Type: "X.509", Content: []byte("certificate of " + alias)}}
		if err := store.SetTrustedCertificateEntry(alias, entry); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := store.Store(&out, []byte(password)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestMergeJKS(t *testing.T) {
	t.Parallel()
	ca := append(certificate("ours"), certificate("second")...)
	original := trustStore(t, storePassword, "Root One", "root two")
	merged, err := MergeAny(original, ca)
	if err != nil {
		t.Fatal(err)
	}
	store := keystore.New(keystore.WithCaseExactAliases())
	if err := store.Load(bytes.NewReader(merged), []byte(storePassword)); err != nil {
		t.Fatal(err)
	}
	if n := len(store.Aliases()); n != 4 || !store.IsTrustedCertificateEntry("Root One") || !store.IsTrustedCertificateEntry("root two") {
		t.Errorf("%q", store.Aliases())
	}
	if again, err := MergeAny(merged, ca); err != nil || !bytes.Equal(again, merged) {
		t.Errorf("merging twice is not merging once: %v", err)
	}
	if len(missing(merged, ca)) != 0 || len(missing(original, ca)) != 2 {
		t.Error("what is missing is not told")
	}
	if _, err := MergeAny(trustStore(t, "another", "root"), ca); err == nil {
		t.Error("a password that is not known")
	}
	if pem, err := MergeAny(certificate("root"), ca); err != nil || !bytes.Equal(pem, Merge(certificate("root"), ca)) {
		t.Errorf("a bundle: %v", err)
	}
}

// FuzzMergeAny: whatever an image has in a key store's place, nothing is allocated that is not there, and what is written can be read.
func FuzzMergeAny(f *testing.F) {
	whole := trustStore(f, storePassword, "root")
	huge := bytes.Clone(whole)
	binary.BigEndian.PutUint32(huge[8:], 1<<32-1)
	chain := binary.BigEndian.AppendUint32(nil, magicJKS)
	for _, n := range []uint32{2, 1, 1} { // version 2, an entry, which is a private key
		chain = binary.BigEndian.AppendUint32(chain, n)
	}
	chain = append(chain, 0, 0)                           // its name
	chain = append(chain, make([]byte, 8+4)...)           // its time, an empty key
	chain = binary.BigEndian.AppendUint32(chain, 1<<32-1) // certificates
	long := binary.BigEndian.AppendUint32(bytes.Clone(whole[:len(whole)-20-len("certificate of root")-4]), 1<<32-1)
	ours := certificate("ours")
	for _, seed := range [][]byte{whole, huge, chain, long, whole[:20], certificate("root"), {0x30, 0x80}, nil} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		merged, err := MergeAny(text, ours)
		if err != nil {
			return
		}
		block, _ := pem.Decode(ours)
		if !isKeyStore(text) {
			if !holds(merged, ours) {
				t.Error("the CA is not in a bundle")
			}
			return
		}
		if !bytes.Contains(merged, block.Bytes) || !isKeyStore(merged) {
			t.Error("the CA is not in a key store")
		}
	})
}
