package reset_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/reset"
)

func TestPersonResets(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for range 2 {
		out, err := r.reset.Reset(t.Context(), "p")
		if err != nil || len(out) != 1 || !out[0].Succeeded() {
			t.Fatalf("%+v, %v", out, err)
		}
	}
	r.events(2)
	r.stage.set(func() { r.stage.exec = ends(2, "no") })
	out, err := r.reset.Reset(t.Context(), "p")
	if err != nil || len(out) != 1 || out[0].Succeeded() || !strings.HasSuffix(out[0].Reason, "status 2: no") {
		t.Fatalf("%+v, %v", out, err)
	}
	r.events(3)
}

func TestPersonIsTold(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for name, want := range map[string]pool.Code{"off": pool.CodeConflict, "gone": pool.CodeNotFound, "loose": pool.CodeConflict} {
		for what, do := range map[string]func(context.Context, string) ([]reset.Outcome, error){"reset": r.reset.Reset, "plan": r.reset.Plan} {
			_, err := do(t.Context(), name)
			var known *pool.Error
			if !errors.As(err, &known) || known.Code != want {
				t.Errorf("%s %s: %v", what, name, err)
			}
		}
	}
	r.stage.set(func() { r.stage.away = fmt.Errorf("containerd does not answer: %w", reset.ErrUnavailable) })
	_, err := r.reset.Reset(t.Context(), "p")
	var known *pool.Error
	if !errors.As(err, &known) || known.Code != pool.CodeUnavailable {
		t.Errorf("runtime away: %v", err)
	}
	r.events(1) // at once: a person does not wait ten minutes
}

func TestPlanRunsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	out, err := r.reset.Plan(t.Context(), "p")
	if err != nil || len(out) != 1 || r.stage.ran() != 0 {
		t.Fatalf("%+v, %v, ran %d", out, err, r.stage.ran())
	}
	if names := out[0].EnvironmentNames(); !slices.Equal(names, []string{"HOME", "LOGNAME", "PATH", "USER"}) || out[0].Ran {
		t.Errorf("%+v, %q", out[0], names)
	}
	r.events(0)
	r.settled()
}

// TestEveryAttachedAgentIsReset, each with its own outcome.
func TestEveryAttachedAgentIsReset(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *reset.Options) {
		o.Agents = func(name string) []reset.Agent {
			return []reset.Agent{{Kind: reset.InCgroup, Ref: "/sys/fs/cgroup/" + name, Name: "unit a"}, {Kind: reset.InContainer, Ref: "b"}}
		}
	})
	r.keep.Told("loose")
	r.recover("loose")
	events := r.events(2)
	if events[0].Target != "unit a" || events[1].Target != "b" || events[0].Kind != pool.EventAuthReset || r.stage.ran() != 2 {
		t.Errorf("%+v", events)
	}
}

// TestResetGoesOnWithoutWhoAsked: a person who hangs up stops nothing.
func TestResetGoesOnWithoutWhoAsked(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	release := make(chan struct{})
	r.stage.exec = func(context.Context, reset.Command) (reset.Result, error) { <-release; return reset.Result{}, nil }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := r.reset.Reset(ctx, "p"); done <- err }()
	<-r.stage.began
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(release)
	if e := r.events(1)[0]; e.Kind != pool.EventAuthReset {
		t.Errorf("%+v", e)
	}
}

func TestProfilesCommandIsChecked(t *testing.T) {
	t.Parallel()
	profiles, err := reset.NewProfiles([]reset.Profile{{Name: "hermes", Argv: []string{"do"}, Check: []string{"look", "{target}"}}})
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(o *reset.Options) { o.Profiles = profiles })
	r.stage.exec = func(_ context.Context, c reset.Command) (reset.Result, error) {
		if slices.Equal(c.Argv, []string{"look", "openai-codex"}) {
			return reset.Result{ExitCode: 1}, nil
		}
		return reset.Result{}, nil
	}
	out, err := r.reset.Reset(t.Context(), "p")
	if err != nil || out[0].Succeeded() || !strings.Contains(out[0].Reason, "the check failed: look openai-codex ended with status 1") {
		t.Errorf("%+v, %v", out, err)
	}
}
