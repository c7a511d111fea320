package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/intercept/guard"
)

func TestCheckGuard(t *testing.T) {
	no := errors.New("not here")
	all := []guard.Support{{Backend: guard.TCX, MinKernel: "6.6"}, {Backend: guard.Clsact, MinKernel: "4.5"}, {Backend: guard.NFTables, MinKernel: "5.13"}}
	without := func(n int) []guard.Support {
		less := append([]guard.Support{}, all...)
		for i := range n {
			less[i].Err = no
		}
		return less
	}
	for _, c := range []struct {
		mode      string
		supported []guard.Support
		says      string
		level     string
	}{
		{guardOn, all, "on, by tcx; this kernel has clsact, nftables, too", "OK"},
		{guardStrict, without(1), "strict, by clsact; not there: tcx (Linux 6.6): not here", "OK"},
		{guardOn, without(2), "by nftables, which sees no frames", "WARN"},
		{guardOn, without(3), "links cannot be guarded", "WARN"},
		{guardOff, all, "off: frames", "WARN"},
	} {
		got := fmt.Sprintf("%+v", checkGuard(c.mode, c.supported))
		if !strings.Contains(got, c.says) || !strings.Contains(strings.ToUpper(got), c.level) {
			t.Errorf("%s: %s", c.mode, got)
		}
	}
}
