package monitor

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func newTestAlarm(t *testing.T) *alarm {
	t.Helper()
	a, err := newAlarm()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

func TestAlarmRingsAtTheInstant(t *testing.T) {
	t.Parallel()
	a := newTestAlarm(t)
	for _, in := range []time.Duration{50 * time.Millisecond, -time.Hour, 10 * time.Millisecond} {
		at := time.Now().Add(in)
		if err := a.wait(t.Context(), at, nil); err != nil {
			t.Fatal(err)
		}
		if early := time.Until(at); early > 0 {
			t.Fatalf("rang %s early", early)
		}
	}
}

func TestAlarmEndsForAChangeAndForItsContext(t *testing.T) {
	t.Parallel()
	a := newTestAlarm(t)
	changed := make(chan struct{})
	close(changed)
	if err := a.wait(t.Context(), time.Time{}, changed); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.wait(ctx, time.Now().Add(time.Hour), nil); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// TestAlarmRingsWhenTheClockIsSet sets the clock to what it says, which is a setting
// like any other to the kernel and to nobody else.
func TestAlarmRingsWhenTheClockIsSet(t *testing.T) {
	a := newTestAlarm(t)
	for _, at := range []time.Time{{}, time.Now().Add(time.Hour)} {
		rang := make(chan error, 1)
		go func() { rang <- a.wait(t.Context(), at, nil) }()
		select {
		case err := <-rang:
			t.Fatalf("rang before the clock was set: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		setClock(t)
		select {
		case err := <-rang:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("the clock was set, and nobody was told")
		}
	}
}

func setClock(t *testing.T) {
	t.Helper()
	var now unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_REALTIME, &now)
	if err == nil {
		err = unix.ClockSettime(unix.CLOCK_REALTIME, &now)
	}
	if err == nil {
		return
	}
	if os.Getenv("SLUICE_KERNEL_TESTS") == "require" {
		t.Fatalf("setting the clock needs root: %v", err)
	}
	t.Skipf("setting the clock needs root: %v", err)
}

func TestAlarmLeavesNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	a, err := newAlarm()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
}

func TestAnchorTellsByHowMuchTheClockWasSet(t *testing.T) {
	t.Parallel()
	now, err := readAnchor()
	if err != nil {
		t.Fatal(err)
	}
	again, err := readAnchor()
	if err != nil {
		t.Fatal(err)
	}
	if by, known := again.setBy(now.encode()); by != 0 || !known {
		t.Errorf("nothing was set, but %s (known %t)", by, known)
	}
	for _, by := range []time.Duration{time.Hour, -time.Hour, time.Second, 900 * time.Millisecond} {
		later := now
		later.Offset += by
		want := by
		if by.Abs() < time.Second {
			want = 0
		}
		if got, known := later.setBy(now.encode()); got != want || !known {
			t.Errorf("set by %s: %s (known %t), want %s", by, got, known, want)
		}
	}
	other := now
	other.BootID = "another boot"
	for _, earlier := range [][]byte{nil, []byte("{}"), []byte("torn {"), other.encode()} {
		if by, known := now.setBy(earlier); by != 0 || known {
			t.Errorf("after %q: %s (known %t), want nothing known", earlier, by, known)
		}
	}
}
