package telegram

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-proxy/sluice/control"
	"github.com/sluice-proxy/sluice/monitor/notice"
	"github.com/sluice-proxy/sluice/pool"
)

const (
	defaultEvents = 10
	maxEvents     = 100
)

func daemonStatus(ctx context.Context, c call) (reply, error) {
	s, err := c.Operations.Status(ctx)
	if err != nil {
		return reply{}, err
	}
	return reply{text: fmt.Sprintf("sluice %s, up for %s\npools: %d healthy, %d degraded, %d exhausted\n%s, %s",
		s.Build.Version, pool.Span(s.Uptime), s.Pools[pool.StateHealthy], s.Pools[pool.StateDegraded], s.Pools[pool.StateExhausted],
		notice.Count(s.Targets, "target"), notice.Count(s.Connections, "connection"))}, nil
}

func listEvents(ctx context.Context, c call) (reply, error) {
	n := defaultEvents
	if given := c.arg(0); given != "" {
		var err error
		if n, err = strconv.Atoi(given); err != nil || n < 1 || n > maxEvents {
			return reply{}, invalid("number: %q is not from 1 to %d", given, maxEvents)
		}
	}
	events, err := c.ListEvents(ctx, -1, n)
	if err != nil {
		return reply{}, err
	}
	lines := make([]string, 0, len(events))
	for _, e := range events {
		lines = append(lines, eventLine(e))
	}
	return orNone(lines, "Nothing has happened yet."), nil
}

func listCredentials(ctx context.Context, c call) (reply, error) {
	credentials, err := c.ListCredentials(ctx)
	if err != nil {
		return reply{}, err
	}
	var lines []string
	for _, x := range credentials {
		line := fmt.Sprintf("%s: %s", x.Name, x.Type)
		if x.Pool != "" {
			line += ", in pool " + x.Pool
		}
		if x.Source != "" {
			line += ", from " + x.Source
		}
		if x.SourceError != "" {
			line += " (with what was read last: " + x.SourceError + ")"
		}
		if !x.ExpiresAt.IsZero() {
			line += ", expires at " + x.ExpiresAt.UTC().Format(time.RFC3339)
		}
		lines = append(lines, line)
	}
	return orNone(lines, "There is no credential: 'sluice cred add' on the host makes one."), nil
}

// credentialSettings are what can be said of a credential in a chat: nothing secret.
var credentialSettings = []string{"source", "type", "token_url", "client_id"}

func addCredential(ctx context.Context, c call) (reply, error) {
	given, err := settings(c.args[1:], credentialSettings...)
	if err != nil {
		return reply{}, err
	}
	if given["source"] == "" {
		return reply{}, invalid("source: is missing: where the daemon reads the secret, such as file:/PATH")
	}
	made, err := c.AddCredential(ctx, c.by, pool.CredentialSpec{
		Name: c.arg(0), Type: pool.CredentialType(given["type"]), Source: given["source"], TokenURL: given["token_url"], ClientID: given["client_id"],
	})
	if err != nil {
		return reply{}, err
	}
	return reply{text: fmt.Sprintf("Credential %q is stored, from %s.", made.Name, made.Source)}, nil
}

func updateCredential(ctx context.Context, c call) (reply, error) {
	given, err := settings(c.args[1:], "source", "token_url", "client_id")
	if err != nil {
		return reply{}, err
	}
	if len(given) == 0 {
		return reply{}, invalid("source: give it, token_url or client_id")
	}
	var change pool.CredentialChange
	if v, ok := given["source"]; ok {
		change.Source = &v
	}
	if v, ok := given["token_url"]; ok {
		change.TokenURL = &v
	}
	if v, ok := given["client_id"]; ok {
		change.ClientID = &v
	}
	if _, err := c.UpdateCredential(ctx, c.by, c.arg(0), change); err != nil {
		return reply{}, err
	}
	return reply{text: fmt.Sprintf("Credential %q is changed.", c.arg(0))}, nil
}

func askRemoveCredential(ctx context.Context, c call) (reply, error) {
	credentials, err := c.ListCredentials(ctx)
	if err != nil {
		return reply{}, err
	}
	var known []string
	for _, x := range credentials {
		if x.Name == c.arg(0) {
			return confirm(fmt.Sprintf("Forget credential %q for good?", x.Name), mark(verbRemoveCredential, x.Name)), nil
		}
		known = append(known, x.Name)
	}
	return reply{}, pool.NoCredential(c.arg(0)).Near(known)
}

func listTargets(_ context.Context, c call) (reply, error) {
	var lines []string
	for _, t := range c.ListTargets() {
		line := fmt.Sprintf("%s: %s, %s, %s", t.ID, t.State, notice.Count(t.Connections, "connection"), t.Ref)
		if t.Reason != "" {
			line += " (" + t.Reason + ")"
		}
		if t.Unserved {
			line += "\n" + unserved
		}
		lines = append(lines, line+untrusting(t.Untrusting))
	}
	return orNone(lines, "Nothing is attached."), nil
}

// unserved is said of a target that no pool serves.
const unserved = "no pool serves it, what it sends goes out as it is"

// untrusting says, a line each, who in a target does not trust the CA.
func untrusting[T fmt.Stringer](all []T) string {
	const most = 10
	var text strings.Builder
	for i, u := range all {
		if i == most {
			fmt.Fprintf(&text, "\nand %d more that do not trust the CA", len(all)-most)
			break
		}
		fmt.Fprintf(&text, "\ndoes not trust the CA: %s", u)
	}
	return text.String()
}

func attach(ctx context.Context, c call) (reply, error) {
	given, err := settings(c.args, "cgroup", "pid", "unit", "container", "selector", "namespace", "pools")
	if err != nil {
		return reply{}, err
	}
	spec := control.TargetSpec{
		Cgroup: given["cgroup"], Unit: given["unit"], Container: given["container"], Selector: given["selector"],
		Namespace: given["namespace"], Pools: list(given["pools"]),
	}
	if text, ok := given["pid"]; ok {
		if spec.PID, err = strconv.Atoi(text); err != nil || spec.PID < 1 {
			return reply{}, invalid("pid: %q is not the id of a process", text)
		}
	}
	// What its environment may hold is for who starts the agent, on the host.
	target, _, err := c.Operations.Attach(ctx, c.by, spec)
	if err != nil {
		return reply{}, err
	}
	return reply{text: fmt.Sprintf("Attached: target %s, %s.%s", target.ID, target.Ref, untrusting(target.Untrusting))}, nil
}

func askDetach(_ context.Context, c call) (reply, error) {
	for _, t := range c.ListTargets() {
		if t.ID == c.arg(0) {
			return confirm(fmt.Sprintf("Detach target %s, %s?", t.ID, t.Ref), mark(verbDetach, t.ID)), nil
		}
	}
	return reply{}, pool.NotFound("target %q: no such target", c.arg(0)) // the words of Detach
}

func askDetachAll(_ context.Context, c call) (reply, error) {
	return confirm(fmt.Sprintf("Detach everything, %s?", notice.Count(len(c.ListTargets()), "target")), mark(verbDetachAll, "")), nil
}

func showCA(_ context.Context, c call) (reply, error) {
	return reply{text: strings.TrimSpace(string(c.CA()))}, nil
}
