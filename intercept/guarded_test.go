package intercept

import (
	"slices"
	"testing"

	"github.com/sluice-proxy/sluice/intercept/guard"
)

// lateKept keeps one connection that has ended, and calls back when it is let go.
type lateKept struct {
	Guard
	unkept func()
}

func (lateKept) Kept() ([]uint64, error) { return []uint64{1}, nil }
func (lateKept) Keep(uint64) error       { return nil }
func (l lateKept) Unkeep(uint64) error   { l.unkept(); return nil }

// TestASweepLeavesWhatWasKeptMeanwhile: its sockets were listed before.
func TestASweepLeavesWhatWasKeptMeanwhile(t *testing.T) {
	of := &target{kept: []guard.Connection{{Cookie: 1}}}
	in := &Interceptor{targets: map[string]*target{"t": of}}
	in.opts.Guard = lateKept{unkept: func() { in.spare(of, guard.Connection{Cookie: 2}) }}
	must(t, in.sweepKept())
	if !slices.EqualFunc(of.kept, []uint64{2}, func(c guard.Connection, cookie uint64) bool { return c.Cookie == cookie }) {
		t.Errorf("kept are %+v", of.kept)
	}
}
