package monitor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// jump is the least change of the wall clock that is followed. Less is what its
// steady correction adds up to, and does no harm.
const jump = time.Second

// anchor ties the wall clock to one that cannot be set and that counts while the
// host sleeps. While it holds, an instant on the one is an instant on the other.
type anchor struct {
	BootID string        `json:"boot_id"`
	Offset time.Duration `json:"offset_ns"` // wall clock less CLOCK_BOOTTIME
}

// readAnchor reads both clocks.
func readAnchor() (anchor, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return anchor{}, fmt.Errorf("read the id of this boot: %w", err)
	}
	offset, err := clockOffset()
	return anchor{BootID: string(bytes.TrimSpace(id)), Offset: offset}, err
}

func clockOffset() (time.Duration, error) {
	var wall, boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &wall); err != nil {
		return 0, fmt.Errorf("read the wall clock: %w", err)
	}
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return 0, fmt.Errorf("read the boot clock: %w", err)
	}
	return time.Duration(wall.Nano() - boot.Nano()), nil
}

// setBy is by how much the wall clock was set since the earlier anchor. Of one that
// is from another boot, or none, nothing can be said: known is false.
func (a anchor) setBy(earlier []byte) (by time.Duration, known bool) {
	var e anchor
	if json.Unmarshal(earlier, &e) != nil || e.BootID != a.BootID {
		return 0, false
	}
	if by = a.Offset - e.Offset; by.Abs() < jump {
		by = 0
	}
	return by, true
}

func (a anchor) encode() []byte {
	text, err := json.Marshal(a)
	if err != nil {
		panic(err) // a string and a number
	}
	return text
}
