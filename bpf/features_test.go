package bpf

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
)

func TestExplain(t *testing.T) {
	load, denied := errors.New("load programs: invalid argument"), errors.New("operation not permitted")
	missing := fmt.Errorf("probe: %w", ebpf.ErrNotSupported)
	there := Feature{Name: "maps", MinKernel: "5.2"}
	for name, c := range map[string]struct {
		probed []Feature
		want   string
	}{
		"all there":          {[]Feature{there}, load.Error()},
		"optional missing":   {[]Feature{there, {Name: "errno", MinKernel: "5.18", Optional: true, Err: missing}}, load.Error()},
		"probe not allowed":  {[]Feature{{Name: "links", MinKernel: "5.7", Err: denied}}, load.Error()},
		"one missing":        {[]Feature{there, {Name: "links", MinKernel: "5.7", Err: missing}}, "links is not supported by this kernel (needs Linux 5.7); 'sluice doctor' says what else it lacks"},
		"the first is named": {[]Feature{{Name: "rings", MinKernel: "5.8", Err: missing}, {Name: "links", MinKernel: "5.7", Err: missing}}, "rings is not supported by this kernel (needs Linux 5.8); 'sluice doctor' says what else it lacks"},
	} {
		err := explain(load, c.probed)
		if err.Error() != c.want {
			t.Errorf("%s: %q", name, err)
		}
		var u *UnsupportedError
		if errors.As(err, &u) != (c.want != load.Error()) {
			t.Errorf("%s: %T", name, err)
		}
	}
}
