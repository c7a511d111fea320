package main

import (
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/intercept/ca"
)

// A CA that a fast clock made is named until it has a successor.
func TestCheckAuthority(t *testing.T) {
	t.Parallel()
	now := time.Now()
	clock := now.Add(90 * 24 * time.Hour)
	a, err := ca.Open(t.TempDir(), func() time.Time { return clock })
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	look := func(want int) {
		t.Helper()
		if _, err := a.Permit([]string{"a.example", "b.example"}); err != nil {
			t.Fatal(err)
		}
		if got := checkAuthority(a.Bundle(), now); len(got) != want || want > 0 && (got[0].State != findingWarn || got[0].Mend == "") {
			t.Errorf("%+v, want %d", got, want)
		}
	}
	look(1)
	clock = now
	look(0)
}
