package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"syscall"
	"testing"

	"github.com/sluice-proxy/sluice/intercept"
	"github.com/sluice-proxy/sluice/pool"
)

func TestClaims(t *testing.T) {
	t.Parallel()
	var c claims
	release, err := c.claim("unix:0/root", "p", "a", "a")
	if err != nil {
		t.Fatal(err)
	}
	var known *pool.Error
	if _, err := c.claim("telegram:1/2", "b", "a"); !errors.As(err, &known) || known.Code != pool.CodeConflict || !strings.Contains(err.Error(), "unix:0/root") {
		t.Errorf("%v", err)
	}
	// Who gets one of the names only holds none of them.
	other, err := c.claim("telegram:1/2", "b", "q")
	if err != nil {
		t.Fatalf("a refused claim has left something behind: %v", err)
	}
	other()
	release()
	if len(c.holder) != 0 {
		t.Errorf("still held: %v", c.holder)
	}
	if release, err := c.claim("x"); err != nil {
		t.Error(err)
	} else {
		release()
	}
}

// A change that fails, or ends in a defect, holds nothing up.
func TestChangeLetsGo(t *testing.T) {
	t.Parallel()
	o := New(Options{})
	by := Actor{Channel: ChannelTCP, Who: "laptop@192.0.2.1"}
	boom := errors.New("boom")
	err := o.change(t.Context(), by, "x", []string{"p"}, func(ctx context.Context) error {
		if got := pool.ActorOf(ctx); got != "tcp:laptop@192.0.2.1" {
			t.Errorf("done by %q", got)
		}
		var known *pool.Error
		if err := o.change(ctx, by, "y", []string{"p"}, func(context.Context) error { return nil }); !errors.As(err, &known) || known.Code != pool.CodeConflict {
			t.Errorf("a change within a change: %v", err)
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Error(err)
	}
	func() {
		defer func() { _ = recover() }()
		_ = o.change(t.Context(), by, "x", []string{"p"}, func(context.Context) error { panic("defect") })
	}()
	if err := o.change(t.Context(), by, "x", []string{"p"}, func(context.Context) error { return nil }); err != nil {
		t.Errorf("still held: %v", err)
	}
}

// The log warns of a change that was refused, and of one for which there was nothing left to
// change it speaks only to who wants to know everything.
func TestChangeIsLogged(t *testing.T) {
	t.Parallel()
	for level, err := range map[string]error{
		"level=INFO msg=done names=[p]":                nil,
		"level=DEBUG msg=\"not done: done\" names=[p]": targetError(fmt.Errorf("target %q: %w", "p", intercept.ErrNotFound)),
		"level=WARN msg=\"not done: done\" names=[p]":  pool.Conflict("taken"),
	} {
		var log bytes.Buffer
		o := New(Options{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
		if got := o.change(t.Context(), Actor{}, "done", []string{"p"}, func(context.Context) error { return err }); !errors.Is(got, err) {
			t.Errorf("%v became %v", err, got)
		}
		if !strings.Contains(log.String(), level) {
			t.Errorf("%v is logged as %s", err, log.String())
		}
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	inner := &pool.Error{Code: pool.CodeInternal, Message: "canary"}
	for _, err := range []error{errors.New("canary"), inner, errors.Join(inner, errors.New("x"))} {
		if got := Explain(err); got.Code != pool.CodeInternal || strings.Contains(got.Message, "canary") {
			t.Errorf("%v is explained as %+v", err, got)
		}
	}
	told := &pool.Error{Code: pool.CodeConflict, Message: "taken"}
	for fault, mend := range map[syscall.Errno]string{syscall.ENOSPC: "make room", syscall.EDQUOT: "make room", syscall.EROFS: "mount it read-write"} {
		err := fmt.Errorf("save the CA: %w", errors.Join(&fs.PathError{Op: "write", Path: "/state/ca/x", Err: fault}, errors.New("y")))
		if got := Explain(err); got.Code != pool.CodeUnavailable || !strings.Contains(got.Message, "/state/ca/x") || !strings.Contains(got.Message, mend) {
			t.Errorf("%v: %+v", err, got)
		}
	}
	if got := Explain(errors.Join(errors.New("x"), told)); got != told {
		t.Errorf("%+v", got)
	}
	if got := (Actor{}).String(); got != ":unknown" {
		t.Errorf("nobody is called %q", got)
	}
}
