package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-proxy/sluice/scripts/sandbox"
	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// story is what is shown, and what it has to show.
type story struct {
	out    *timeline
	world  *world
	daemon *sandbox.Daemon
	agent  *agent
	inbox  *inbox
	checks []check
}

// check is one promise and whether it was kept.
type check struct {
	what string
	err  error
}

// promise notes a check; problems are what is wrong, "" being nothing.
func (s *story) promise(what string, problems ...string) {
	problems = slices.DeleteFunc(problems, func(p string) bool { return p == "" })
	c := check{what: what}
	if len(problems) > 0 {
		c.err = errors.New(strings.Join(problems, "; "))
	}
	s.checks = append(s.checks, c)
}

// unless is the problem, if the condition does not hold.
func unless(holds bool, format string, args ...any) string {
	if holds {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

// scene is one request: what the agent saw, what the upstream saw, how the pool is afterwards.
type scene struct {
	answer   answer
	upstream []simulator.Entry
	pool     poolStatus
}

// members lists who was asked upstream, in order, and what they were answered.
func (c scene) members() string {
	parts := make([]string, 0, len(c.upstream))
	for _, e := range c.upstream {
		who := e.Credential
		if who == "" {
			who = "no known key"
		}
		if e.Refusal != "" || e.Status != 200 {
			who += fmt.Sprintf(" (%d)", e.Status)
		}
		parts = append(parts, who)
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ", then ")
}

// ask has the agent call, and prints and returns what came of it.
func (s *story) ask(ctx context.Context, what, curl string) (scene, error) {
	journal := s.world.sim.Journal()
	before := journal.Last()
	var c scene
	var err error
	if c.answer, err = s.agent.curl(ctx, curl); err != nil {
		return c, fmt.Errorf("%s: %w", what, err)
	}
	waiting, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c.upstream, err = journal.Wait(waiting, before, func(list []simulator.Entry) bool {
		return !slices.ContainsFunc(list, func(e simulator.Entry) bool { return e.Ended.IsZero() })
	})
	if err != nil {
		return c, fmt.Errorf("%s: a request is still under way upstream: %w", what, err)
	}
	if c.pool, err = readStatus(ctx, s.daemon); err != nil {
		return c, err
	}
	s.out.request(what, c.answer.Status, c.members(), c.pool.out())
	return c, nil
}

// tell is the whole story; an error is something that went wrong or a promise
// that was not kept.
func tell(ctx context.Context, s *story) error {
	placeholder, err := s.agent.shell(ctx, `printf %s "$OPENAI_API_KEY"`)
	if err != nil {
		return err
	}
	s.out.say("The pool %q has two keys, first and second. The agent runs under 'sluice run', with an empty", poolName)
	s.out.say("environment and no route out; its OPENAI_API_KEY is %s, which opens nothing.\n", placeholder)
	s.promise("the agent holds no real key",
		unless(placeholder != "", "OPENAI_API_KEY is not set"),
		unless(placeholder != firstSecret && placeholder != secondSecret, "OPENAI_API_KEY is a real key"))
	s.out.begin()
	for _, part := range []func(context.Context) error{s.firstKey, s.otherHost, s.takeover, s.exhausted, s.recovery, s.notices} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return s.verdict()
}

// firstKey: requests with a placeholder are answered.
func (s *story) firstKey(ctx context.Context) error {
	for _, call := range []struct {
		what   string
		stream bool
	}{{"chat", false}, {"chat, streaming", true}, {"chat", false}} {
		c, err := s.ask(ctx, call.what, chat(call.stream))
		if err != nil {
			return err
		}
		s.promise(call.what+" with a placeholder key is answered, by the first key", c.answered(call.stream), c.sentWith("first"))
	}
	return nil
}

// otherHost: what no pool is bound to passes untouched.
func (s *story) otherHost(ctx context.Context) error {
	c, err := s.ask(ctx, "another host, its own key", `--cacert `+s.world.caFile+` -H "x-api-key: `+ownSecret+
		`" -H "anthropic-version: 2023-06-01" -H "Content-Type: application/json" `+
		`-d '{"model":"claude","max_tokens":9,"messages":[{"role":"user","content":"Say something."}]}' https://api.anthropic.com/v1/messages`)
	if err != nil {
		return err
	}
	s.promise("a host without a pool is left alone: its own certificate, the agent's own key",
		unless(c.answer.Status == 200, "status %d: %s", c.answer.Status, c.answer.Body), c.sentWith("the agent's own"))
	return nil
}

// takeover: the first key runs out, and the agent does not notice.
func (s *story) takeover(ctx context.Context) error {
	c, err := s.ask(ctx, "chat, streaming", chat(true))
	if err != nil {
		return err
	}
	s.promise("the first key runs out, the same streaming request goes on with the second, and the agent sees only the answer",
		c.answered(true), c.sentWith("first", "second"),
		unless(len(c.upstream) == 2 && c.upstream[0].BodySHA256 == c.upstream[1].BodySHA256, "the second request's body is another one"),
		unless(c.answer.Header.Get("Sluice-Pool") == "", "something was added to the answer"),
		unless(c.pool.Active == "second" && c.pool.State == "degraded", "the pool is %s, active is %q", c.pool.State, c.pool.Active))
	c, err = s.ask(ctx, "chat", chat(false))
	if err != nil {
		return err
	}
	s.promise("from then on the second key is asked at once", c.answered(false), c.sentWith("second"))
	return nil
}

// exhausted: both are out, and the agent is told so, and until when.
func (s *story) exhausted(ctx context.Context) error {
	c, err := s.ask(ctx, "chat", chat(false))
	if err != nil {
		return err
	}
	s.promise("both keys out: 429 with Retry-After, Sluice-Pool and the provider's own error shape",
		c.refusedHere(), c.sentWith("second"), unless(c.pool.State == "exhausted", "the pool is %s", c.pool.State))
	c, err = s.ask(ctx, "chat", chat(false))
	if err != nil {
		return err
	}
	s.promise("while both are out nothing is sent upstream", c.refusedHere(), unless(len(c.upstream) == 0, "the upstream saw %s", c.members()))
	after := c.retryAfter()
	s.out.moment(fmt.Sprintf("Retry-After: %d   Sluice-Pool: %s   %s", after, c.answer.Header.Get("Sluice-Pool"), strings.TrimSpace(c.answer.Body)))
	if after < 1 || after > 60 {
		return s.verdict()
	}
	s.out.moment(fmt.Sprintf("... the agent waits %d s, as it was told to ...", after))
	wait(ctx, time.Duration(after)*time.Second)
	return ctx.Err()
}

// recovery: the first key is back, then the pool is.
func (s *story) recovery(ctx context.Context) error {
	c, err := s.ask(ctx, "chat", chat(false))
	if err != nil {
		return err
	}
	s.promise("when the time is up the first key is back", c.answered(false), c.sentWith("first"))
	status := c.pool
	for deadline := time.Now().Add(secondWindow + 3*time.Second); status.State != "healthy" && time.Now().Before(deadline); {
		if wait(ctx, 250*time.Millisecond); ctx.Err() != nil {
			return ctx.Err()
		}
		if status, err = readStatus(ctx, s.daemon); err != nil {
			return err
		}
	}
	s.out.moment("the pool is " + status.State + ", " + status.Active + " is active")
	s.promise("then the second is back too, and the pool is healthy", unless(status.State == "healthy", "the pool is %s: %s", status.State, status.out()))
	return nil
}

// notices: the operator was told of each edge, once.
func (s *story) notices(ctx context.Context) error {
	want := []string{"cred_failover", "pool_exhausted", "pool_recovered"}
	told := s.inbox.told(ctx, len(want))
	s.promise("the operator was told three things, once each: failed over, exhausted, recovered",
		unless(slices.Equal(told, want), "told %s", strings.Join(told, ", ")))
	return ctx.Err()
}

// verdict prints the checks; an error says how many failed.
func (s *story) verdict() error {
	s.out.say("")
	failed := 0
	for _, c := range s.checks {
		s.out.check(c)
		if c.err != nil {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d promises were not kept; what the daemon said:\n%s", failed, len(s.checks), s.daemon.Log())
	}
	s.out.say("\nAll of it held. The agent was not configured, never held a real key, and saw one kind of error: both keys used up.")
	return nil
}

// answered is the problem with an answer that should be a good one.
func (c scene) answered(stream bool) string {
	if c.answer.Status != 200 {
		return fmt.Sprintf("status %d: %s", c.answer.Status, c.answer.Body)
	}
	if !stream {
		return unless(strings.Contains(c.answer.Body, simulator.DefaultText), "the answer is %q", c.answer.Body)
	}
	want := len(strings.Fields(simulator.DefaultText)) + 2 // the role before the words, the end after them
	n, whole := c.answer.events()
	return unless(whole && n == want, "the stream has %d events of %d", n, want)
}

// sentWith is the problem if the upstream did not see these members' requests,
// each with that member's key alone.
func (c scene) sentWith(members ...string) string {
	got := make([]string, 0, len(c.upstream))
	for _, e := range c.upstream {
		if len(e.Presented) != 1 {
			return fmt.Sprintf("a request carried %d credentials", len(e.Presented))
		}
		got = append(got, e.Credential)
	}
	return unless(slices.Equal(got, members), "the upstream saw %s, not %s", c.members(), strings.Join(members, ", then "))
}

func (c scene) retryAfter() int {
	n, err := strconv.Atoi(c.answer.Header.Get("Retry-After"))
	if err != nil {
		return 0
	}
	return n
}

// refusedHere is the problem with an answer that should be sluice's own 429.
func (c scene) refusedHere() string {
	after := c.retryAfter()
	switch {
	case c.answer.Status != 429:
		return fmt.Sprintf("status %d", c.answer.Status)
	case after < 1 || after > int(firstWindow/time.Second):
		return fmt.Sprintf("Retry-After is %q", c.answer.Header.Get("Retry-After"))
	case c.answer.Header.Get("Sluice-Pool") != poolName:
		return fmt.Sprintf("Sluice-Pool is %q", c.answer.Header.Get("Sluice-Pool"))
	}
	return unless(strings.Contains(c.answer.Body, `"error"`), "the body is %q", c.answer.Body)
}
