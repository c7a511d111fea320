package pool_test

import (
	"sync/atomic"
	"testing"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// countingVault counts what is opened.
type countingVault struct {
	pool.Vault
	opened *atomic.Int64
}

func (v countingVault) Decrypt(sealed []byte) (vault.Secret, error) {
	v.opened.Add(1)
	return v.Vault.Decrypt(sealed)
}

// TestAChangeOpensWhatChanged: and not each secret there is, which would make every change the slower the more there are.
func TestAChangeOpensWhatChanged(t *testing.T) {
	t.Parallel()
	var opened atomic.Int64
	b := newBench(t, nil)
	b.stop()
	b.lock = func(v pool.Vault) pool.Vault { return countingVault{v, &opened} }
	b.start(t)
	r := b.pool(t, "a", "b", "c")
	b.add(t, "d")
	step := func(what string, most int64, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if n := opened.Swap(0); n > most {
			t.Errorf("%s opens %d secrets, want %d at most", what, n, most)
		}
	}
	step("a pool of three", 3, nil)
	step("another member", 1, b.AddMember(t.Context(), "p", "d"))
	step("one that leaves", 0, b.RemoveMember(t.Context(), "p", "d"))
	secret := vault.NewSecret([]byte("sk-other"))
	_, err := b.UpdateCredential(t.Context(), "a", pool.CredentialChange{Secret: &secret})
	step("another secret", 2, err)
	if l := b.acquire(t, r); l.Member != "a" || string(l.Inject[0].Value) != "Bearer sk-other" {
		t.Errorf("%s carries %q", l.Member, l.Inject[0].Value)
	}
	step("a removed pool", 0, b.RemovePool(t.Context(), "p"))
}
