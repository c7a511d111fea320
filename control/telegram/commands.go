package telegram

import (
	"context"
	"fmt"
	"strings"

	"github.com/sluice-proxy/sluice/control"
	"github.com/sluice-proxy/sluice/pool"
)

// Command is what can be typed in a chat.
type Command struct {
	Name    string // without the slash
	Usage   string // its arguments; those in brackets may be left out, dots stand for more
	Summary string
	// Operation is the method of [control.Operations] that it carries out; empty for
	// what is about the chat only.
	Operation string

	run func(context.Context, call) (reply, error)
}

// call is a command that was typed.
type call struct {
	*control.Operations
	bot  *Bot
	by   control.Actor
	args []string
}

// arg is an argument, or "" if it was left out.
func (c call) arg(i int) string {
	if i >= len(c.args) {
		return ""
	}
	return c.args[i]
}

// Commands are all there are, in the order in which /help lists them.
func Commands() []Command {
	return append([]Command{
		{"pools", "", "the pools and their states", "ListPools", listPools},
		{"status", "[POOL]", "a pool with its members, or what the daemon is doing", "Pool", status},
		{"daemon", "", "what the daemon is doing", "Status", daemonStatus},
		{"rotate", "POOL", "make the next member active", "RotatePool", rotate},
		{"clear", "POOL [MEMBER]", "lift cooldowns", "ClearPool", clearPool},
		{"events", "[NUMBER]", "what happened last", "ListEvents", listEvents},
		{"pool_create", "POOL members=A,B provider=P ...", "create a pool", "CreatePool", createPool},
		{"pool_remove", "POOL", "remove a pool", "RemovePool", askRemovePool},
		{"member_add", "POOL CREDENTIAL", "add a credential to a pool", "AddMember", addMember},
		{"member_remove", "POOL CREDENTIAL", "take a credential out of a pool", "RemoveMember", askRemoveMember},
		{"auth_reset_set", "POOL TARGET", "reset agents' auth for this when the pool recovers", "SetAuthResetTarget", setAuthReset},
		{"auth_reset_clear", "POOL", "reset no agents' auth", "SetAuthResetTarget", setAuthReset},
		{"reset_agent", "POOL [dry-run]", "reset the agents' auth now, or say how", "ResetAgents", resetAgents},
		{"credentials", "", "the credentials, without their secrets", "ListCredentials", listCredentials},
		{"cred_add", "CREDENTIAL source=SOURCE ...", "store a credential that the daemon reads elsewhere", "AddCredential", addCredential},
		{"cred_update", "CREDENTIAL source=SOURCE ...", "read a credential again, change what is not secret of it", "UpdateCredential", updateCredential},
		{"cred_remove", "CREDENTIAL", "forget a credential", "RemoveCredential", askRemoveCredential},
		{"targets", "", "the attached cgroups", "ListTargets", listTargets},
		{"attach", "[KEY=VALUE] ...", "attach a cgroup, process, unit or container", "Attach", attach},
		{"detach", "TARGET", "detach a target", "Detach", askDetach},
		{"detach_all", "", "detach every target", "DetachAll", askDetachAll},
		{"ca", "", "the certificates that agents trust", "CA", showCA},
	}, Command{"help", "", "this list", "", help})
}

// secretCommand says whether a command is one whose argument would be a secret: what
// follows the name of a credential and is no setting.
func secretCommand(name, rest string) bool {
	given, err := words(rest)
	if name != "cred_add" || len(given) < 2 {
		return name == "cred_add" && err != nil
	}
	_, err = settings(given[1:], credentialSettings...)
	return err != nil
}

// carryOut does what a command says and is what there is to say of that.
func (b *Bot) carryOut(ctx context.Context, by control.Actor, name, rest string) reply {
	if name == "start" {
		name = "help"
	}
	if name == "cred_add" && len(strings.Fields(rest)) < 2 {
		return reply{text: "Secrets are given to sluice on its host only, with 'sluice cred add': what is written here is on Telegram's servers. " +
			"/cred_add CREDENTIAL source=SOURCE has the daemon read one elsewhere."}
	}
	for _, c := range Commands() {
		if c.Name != name {
			continue
		}
		args, err := words(rest)
		if err == nil {
			err = c.fits(args)
		}
		var r reply
		if err == nil {
			r, err = c.run(ctx, call{b.o.Operations, b, by, args})
		}
		if err != nil {
			return b.failed("/"+name, err)
		}
		return r
	}
	return reply{text: fmt.Sprintf("There is no /%s: /help lists what there is.", name)}
}

// fits holds the number of arguments against the usage.
func (c Command) fits(args []string) error {
	least, most := 0, 0
	for _, word := range strings.Fields(c.Usage) {
		switch {
		case word == "...":
			most = 1 << 10
		case strings.HasPrefix(word, "["):
			most++
		default:
			least, most = least+1, most+1
			if len(args) < least && strings.ToUpper(word) == word {
				return invalid("%s is missing: /%s %s", word, c.Name, c.Usage)
			}
		}
	}
	if len(args) > most {
		return invalid("%q is one word too many: /%s %s", args[most], c.Name, c.Usage)
	}
	return nil
}

// failed says why something was not done. What is sluice's own fault is in the log.
func (b *Bot) failed(what string, err error) reply {
	known := control.Explain(err)
	if known.Code == pool.CodeInternal {
		b.o.Log.Error("telegram: request failed", "command", what, "error", err)
	}
	return reply{text: "Not done: " + known.Message}
}

func invalid(format string, args ...any) error {
	return &pool.Error{Code: pool.CodeInvalid, Message: fmt.Sprintf(format, args...)}
}

func help(context.Context, call) (reply, error) {
	var lines []string
	for _, c := range Commands() {
		lines = append(lines, strings.TrimSpace("/"+c.Name+" "+c.Usage)+" - "+c.Summary)
	}
	lines = append(lines, "", "Secrets are never taken here: 'sluice cred add' and 'sluice cred update' on the host do that.")
	return reply{text: strings.Join(lines, "\n")}, nil
}
