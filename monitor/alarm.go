package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// alarm waits for instants of the wall clock. Unlike a [time.Timer] it rings at the
// stated instant though the host slept meanwhile, and at once when the clock is set.
type alarm struct {
	file *os.File // a timerfd
	// woken gets a value when the timer rings and when the clock was set.
	woken chan struct{}
	ended chan struct{}
}

// newAlarm makes a timer on CLOCK_REALTIME; close must be called.
func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	a := &alarm{file: os.NewFile(uintptr(fd), "timerfd"), woken: make(chan struct{}, 1), ended: make(chan struct{})}
	if err := a.set(time.Time{}); err != nil {
		return nil, errors.Join(err, a.file.Close())
	}
	go a.listen()
	return a, nil
}

// listen reads until the file is closed. A read ends with a count when the timer
// rings, and with ECANCELED when the clock is set (timerfd_create(2)).
func (a *alarm) listen() {
	defer close(a.ended)
	count := make([]byte, 8)
	for {
		_, err := a.file.Read(count)
		if err != nil && !errors.Is(err, unix.ECANCELED) {
			return
		}
		select {
		case a.woken <- struct{}{}:
		default:
		}
	}
}

// never is far enough that a timer for it does not ring, and near enough for the kernel.
const never = 100 * 365 * 24 * time.Hour

// set arms the timer. It is armed even without an instant: only an armed one tells
// that the clock was set.
func (a *alarm) set(at time.Time) error {
	if at.IsZero() {
		at = time.Now().Add(never)
	}
	// An instant in the past rings at once, but zero would disarm.
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(at.UnixNano(), 1))}
	conn, err := a.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("set a timer: %w", err)
	}
	var setErr error
	err = conn.Control(func(fd uintptr) {
		setErr = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &spec, nil)
		if errors.Is(setErr, unix.ECANCELED) {
			setErr = nil // set between two calls: armed all the same, and listen is told as well
		}
	})
	if err = errors.Join(err, setErr); err != nil {
		return fmt.Errorf("set a timer: %w", err)
	}
	return nil
}

// wait waits for an instant, for ever if it is zero, or until the clock is set,
// something changes or ctx ends; the error is ctx's.
func (a *alarm) wait(ctx context.Context, at time.Time, changed <-chan struct{}) error {
	if err := a.set(at); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-changed:
	case <-a.woken:
	}
	return nil
}

func (a *alarm) close() error {
	err := a.file.Close()
	<-a.ended
	return err
}
