package telegram

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

func listPools(ctx context.Context, c call) (reply, error) {
	pools, err := c.ListPools(ctx)
	if err != nil {
		return reply{}, err
	}
	if len(pools) == 0 {
		return reply{text: "There is no pool: /pool_create makes one."}, nil
	}
	var r reply
	now := c.bot.o.Now()
	for _, p := range pools {
		line := fmt.Sprintf("%s: %s", p.Name, p.State)
		switch {
		case p.Active != "":
			line += fmt.Sprintf(", %s is active of %d", p.Active, len(p.Members))
		case !p.RecoversAt.IsZero():
			line += ", back " + moment(p.RecoversAt, now)
		}
		r.text += line + "\n"
		if len(r.buttons) < maxRows {
			r.buttons = append(r.buttons, []button{{p.Name, mark(verbShow, p.Name)}})
		}
	}
	return r, nil
}

func status(ctx context.Context, c call) (reply, error) {
	if c.arg(0) == "" {
		return daemonStatus(ctx, c)
	}
	p, err := c.Pool(ctx, c.arg(0))
	if err != nil {
		return reply{}, err
	}
	return poolReply(p, c.bot.o.Now()), nil
}

// said is a pool after a change of it, under a line that says which.
func (c call) said(what string, p pool.PoolStatus, err error) (reply, error) {
	if err != nil {
		return reply{}, err
	}
	r := poolReply(p, c.bot.o.Now())
	r.text = what + "\n" + r.text
	return r, nil
}

func rotate(ctx context.Context, c call) (reply, error) {
	p, err := c.RotatePool(ctx, c.by, c.arg(0))
	return c.said("Rotated.", p, err)
}

func clearPool(ctx context.Context, c call) (reply, error) {
	p, err := c.ClearPool(ctx, c.by, c.arg(0), c.arg(1))
	return c.said("Cleared.", p, err)
}

func addMember(ctx context.Context, c call) (reply, error) {
	p, err := c.AddMember(ctx, c.by, c.arg(0), c.arg(1))
	return c.said("Added.", p, err)
}

func askRemoveMember(ctx context.Context, c call) (reply, error) {
	p, err := c.Pool(ctx, c.arg(0))
	if err != nil {
		return reply{}, err
	}
	return confirm(fmt.Sprintf("Take %q out of pool %q?", c.arg(1), p.Name), versioned(verbRemoveMember, p, c.arg(1))), nil
}

func askRemovePool(ctx context.Context, c call) (reply, error) {
	p, err := c.Pool(ctx, c.arg(0))
	if err != nil {
		return reply{}, err
	}
	return confirm(fmt.Sprintf("Remove pool %q? Its credentials stay.", p.Name), versioned(verbRemovePool, p, "")), nil
}

func createPool(ctx context.Context, c call) (reply, error) {
	given, err := settings(c.args[1:], "members", "provider", "host", "header", "hold", "auth_reset_target", "agent_profile", "container")
	if err != nil {
		return reply{}, err
	}
	p := pool.Pool{
		Name: c.arg(0), Members: list(given["members"]), Provider: given["provider"],
		AuthResetTarget: given["auth_reset_target"], AgentProfile: given["agent_profile"], Container: given["container"],
	}
	for _, host := range list(given["host"]) {
		name, port, err := pool.ParseHostPort(host)
		if err != nil {
			return reply{}, err
		}
		p.Bindings = append(p.Bindings, pool.Binding{Host: name, Port: port, Header: given["header"]})
	}
	if given["hold"] != "" {
		if p.Hold, err = time.ParseDuration(given["hold"]); err != nil {
			return reply{}, invalid("hold: %q is not a duration such as 30s or 2m", given["hold"])
		}
	}
	made, err := c.CreatePool(ctx, c.by, p)
	return c.said("Created.", made, err)
}

func setAuthReset(ctx context.Context, c call) (reply, error) {
	p, err := c.SetAuthResetTarget(ctx, c.by, c.arg(0), c.arg(1))
	return c.said("Set.", p, err)
}

func resetAgents(ctx context.Context, c call) (reply, error) {
	how := c.arg(1)
	if how != "" && how != "dry-run" {
		return reply{}, invalid("%s: the only word here is dry-run", how)
	}
	outcomes, err := c.ResetAgents(ctx, c.by, c.arg(0), how != "")
	if err != nil {
		return reply{}, err
	}
	var lines []string
	for _, o := range outcomes {
		switch {
		case o.Succeeded():
			lines = append(lines, o.Agent.String()+": reset")
		case o.Reason != "":
			lines = append(lines, o.Agent.String()+": not reset: "+o.Reason)
		default:
			lines = append(lines, o.Agent.String()+": would run "+strings.Join(o.Command.Argv, " "))
		}
	}
	return orNone(lines, "There is no agent to reset: nothing is attached for the pool."), nil
}

// list splits at commas; nothing is no element.
func list(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}
