package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// endings are the signals by which a person, or a terminal that is closed, ends a command in the middle.
var endings = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}

// unlessEnded has undo called once: by the function that it returns, or before that by a signal, by which the command then
// ends as it would have without. It is called while the command goes on, then. Of two at a time one would end the other.
func unlessEnded(undo func()) (ended func()) {
	got, broken, done := make(chan os.Signal, 1), make(chan os.Signal, 1), make(chan struct{})
	if signals := heard(endings); len(signals) > 0 { // for none it would be all
		signal.Notify(got, signals...)
	}
	// Where nobody is to hear of it, a write to a standard output that nobody reads ends the command itself.
	signal.Notify(broken, syscall.SIGPIPE)
	undo = sync.OnceFunc(undo)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case by := <-got:
			undo()
			endBy(by)
		case <-done:
		}
	})
	return func() {
		signal.Stop(got) // what has come is there
		signal.Stop(broken)
		close(done)
		watch.Wait()
		undo()
		select {
		case by := <-got:
			endBy(by)
		default:
		}
	}
}

// untilEnded is ctx until one of the signals comes, of those that are not ignored.
func untilEnded(ctx context.Context, signals ...os.Signal) (context.Context, context.CancelFunc) {
	if signals = heard(signals); len(signals) == 0 { // for none it would be all
		return context.WithCancel(ctx)
	}
	return signal.NotifyContext(ctx, signals...)
}

// endBy ends the process by a signal: whoever has started it, such as a shell's loop, goes by that.
func endBy(s os.Signal) {
	signal.Reset(s)
	for { // it takes a moment
		_ = unix.Kill(os.Getpid(), s.(syscall.Signal))
		time.Sleep(time.Second)
	}
}

// removeAll is [os.RemoveAll] in spite of who still puts files there.
func removeAll(dir string) (err error) {
	const tries = 100
	for range tries {
		if err = os.RemoveAll(dir); err == nil {
			break
		}
	}
	return err
}
