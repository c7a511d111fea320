package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/intercept/ca"
	"github.com/sluice-proxy/sluice/pool"
)

// TestPermitSaysWhatIsWrong: who binds a host learns why there can be no certificate for it.
func TestPermitSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "ca")
	authority, err := ca.Open(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer authority.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // in the directory's place
		t.Fatal(err)
	}
	p := permitting{Authority: authority}
	err = p.Permit([]string{"api.example"})
	if known, ok := errors.AsType[*pool.Error](err); !ok || known.Code != pool.CodeUnavailable ||
		!strings.Contains(known.Message, "api.example") || !strings.Contains(known.Message, dir) {
		t.Errorf("%v", err)
	}
	p.Confide() // there is nothing to tell, and so nobody is asked
}
