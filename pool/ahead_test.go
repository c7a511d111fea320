package pool

import (
	"fmt"
	"testing"
	"time"
)

// Accounts that were added together, with tokens that end together, do not come to the
// token endpoint together; none comes too late, or hours too early.
func TestRefreshesAreSpread(t *testing.T) {
	t.Parallel()
	for left, most := range map[time.Duration]time.Duration{
		time.Hour: refreshAhead, 30 * 24 * time.Hour: refreshAhead, 10 * time.Minute: time.Minute, time.Second: 100 * time.Millisecond,
	} {
		seen := make(map[time.Duration]bool)
		for i := range 1000 {
			ahead := aheadOf(fmt.Sprintf("account-%d", i), left)
			if ahead < most || ahead > most+most/5 || ahead >= left {
				t.Errorf("with %s left, account %d comes %s before its end", left, i, ahead)
			}
			seen[ahead] = true
		}
		if len(seen) < 500 {
			t.Errorf("with %s left, 1000 accounts come at %d instants", left, len(seen))
		}
	}
	if aheadOf("a", 0) != 0 || aheadOf("a", -time.Hour) != 0 {
		t.Error("what has ended is to be refreshed before now")
	}
}
