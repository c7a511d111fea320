package reset

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
	"unicode"

	"github.com/sluice-proxy/sluice/pool"
)

// maxQuoted is how much of a command's output goes into the event log, in bytes.
const maxQuoted = 300

// Outcome is what became of the reset of one agent.
type Outcome struct {
	Agent   Agent
	Command Command // as it was run, or would be
	// Ran says that the command was begun.
	Ran bool
	// Reason is why it failed; "" if it succeeded.
	Reason string
	Result Result
	// err is what Reason was made of.
	err  error
	lost bool // how the command ended is not known
}

// Succeeded says whether the reset was run and had its effect.
func (o Outcome) Succeeded() bool { return o.Ran && o.Reason == "" }

// Ended says that the command was begun and ended by itself: it has an exit status.
func (o Outcome) Ended() bool { return o.Ran && !o.Result.TimedOut && !o.lost }

// order is the reset of one agent: what is to be done, not yet where.
type order struct {
	agent   Agent
	runtime Runtime
	profile Profile
	target  string
}

// plan looks at the agent and makes the command. Nothing of the agent's is run.
func (o order) plan(ctx context.Context) (Command, error) {
	given, err := o.runtime.Environment(ctx, o.agent.Ref, o.profile.UID)
	if err != nil {
		return Command{}, err
	}
	var who user
	passwd, err := o.runtime.ReadFile(ctx, o.agent.Ref, passwdFile, maxPasswd)
	switch {
	case err == nil:
		who = userOf(passwd, o.profile.UID)
	case !errors.Is(err, fs.ErrNotExist):
		return Command{}, err
	}
	return Command{
		Argv: fill(o.profile.Argv, o.target), UID: o.profile.UID, GID: o.profile.GID,
		Environment: environment(given, o.profile, who), Timeout: o.profile.Timeout,
	}, nil
}

// run resets one agent and checks that it had an effect. begin is called right before
// the command, which is not run if it fails.
func (o order) run(ctx context.Context, begin func() error) Outcome {
	out := Outcome{Agent: o.agent}
	fail := func(err error) Outcome {
		out.err, out.Reason = err, o.explain(err)
		return out
	}
	c, err := o.plan(ctx)
	if err != nil {
		return fail(err)
	}
	out.Command = c
	if err = ctx.Err(); err == nil {
		err = begin()
	}
	if err != nil {
		return fail(err)
	}
	out.Ran = true
	if out.Result, err = o.runtime.Exec(ctx, o.agent.Ref, c); err != nil {
		out.Ran, out.lost = !errors.Is(err, ErrNoCommand), true
		return fail(err)
	}
	if out.Reason = failureOf(c, out.Result); out.Reason != "" {
		return out
	}
	if err := o.check(ctx, c); err != nil {
		return fail(err)
	}
	return out
}

// failureOf is why a command that ran has failed, "" if it has not.
func failureOf(c Command, r Result) string {
	what := strings.Join(c.Argv, " ")
	switch {
	case r.TimedOut:
		return fmt.Sprintf("%s did not end within %s and was killed", what, pool.Span(c.Timeout))
	case r.ExitCode != 0:
		if said := lastLine(r.Output); said != "" {
			return fmt.Sprintf("%s ended with status %d: %s", what, r.ExitCode, said)
		}
		return fmt.Sprintf("%s ended with status %d", what, r.ExitCode)
	}
	return ""
}

// check looks whether the reset had its effect: an exit status of 0 is only a word.
func (o order) check(ctx context.Context, c Command) error {
	for _, file := range o.profile.CheckFiles {
		if file = placed(file, c.Environment); file == "" {
			continue
		}
		if err := o.checkFile(ctx, c, file); err != nil {
			return err
		}
	}
	if len(o.profile.Check) == 0 {
		return nil
	}
	c.Argv = fill(o.profile.Check, o.target)
	r, err := o.runtime.Exec(ctx, o.agent.Ref, c)
	if err != nil {
		return fmt.Errorf("the check cannot be run: %w", err)
	}
	if why := failureOf(c, r); why != "" {
		return errors.New("the check failed: " + why)
	}
	return nil
}

func (o order) checkFile(ctx context.Context, c Command, file string) error {
	text, err := o.runtime.ReadFile(ctx, o.agent.Ref, file, maxCheckFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing is written down, then
	}
	if err != nil {
		return fmt.Errorf("%s ended with status 0, but %s cannot be read: %w", c.Argv[0], file, err)
	}
	n, err := latched(text, o.target)
	if err != nil {
		return fmt.Errorf("%s ended with status 0, but %s %w", c.Argv[0], file, err)
	}
	if n > 0 {
		return fmt.Errorf("%s ended with status 0, but changed nothing: %s still holds %d of %s for exhausted", c.Argv[0], file, n, o.target)
	}
	return nil
}

// explain is an error as the end of a sentence.
func (o order) explain(err error) string {
	switch {
	case errors.Is(err, ErrNoCommand):
		return fmt.Sprintf("there is no %s to run in %s", o.profile.Argv[0], o.agent)
	case errors.Is(err, context.Canceled):
		return "it was interrupted"
	}
	return oneLine([]byte(err.Error()))
}

// event is what the log is told about an outcome.
func (o Outcome) event(poolName string) pool.Event {
	e := pool.Event{Kind: pool.EventAuthReset, Pool: poolName, Target: o.Agent.Called(), Reason: o.Reason}
	if !o.Succeeded() {
		e.Kind = pool.EventAuthResetFail
	}
	if len(o.Command.Argv) > 0 {
		e.Detail = fmt.Sprintf("%s as %d:%d in %s", strings.Join(o.Command.Argv, " "), o.Command.UID, o.Command.GID, o.Agent)
	}
	if o.Ended() {
		e.Detail += fmt.Sprintf(", status %d after %s", o.Result.ExitCode, o.Result.Took.Round(time.Millisecond))
		if said := oneLine(o.Result.Output); said != "" {
			e.Detail += ": " + said
		}
	}
	return e
}

// oneLine is the beginning of a text as one line without control characters.
func oneLine(text []byte) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(text[:min(len(text), 4*maxQuoted)]), ""))
	clean = strings.Join(strings.Fields(clean), " ")
	if len(clean) > maxQuoted {
		clean = strings.ToValidUTF8(clean[:maxQuoted], "") + "..."
	}
	return clean
}

// lastLine is where commands say what is wrong.
func lastLine(text []byte) string {
	lines := strings.FieldsFunc(string(text), func(r rune) bool { return r == '\n' })
	for i := len(lines) - 1; i >= 0; i-- {
		if line := oneLine([]byte(lines[i])); line != "" {
			return line
		}
	}
	return ""
}
