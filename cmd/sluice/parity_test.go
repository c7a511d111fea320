package main

import (
	"io"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/spf13/cobra"

	"github.com/sluice-proxy/sluice/control"
	"github.com/sluice-proxy/sluice/control/telegram"
)

// adapters says where each operation is on each channel. An operation is a method,
// so that one that is renamed or gone does not compile.
var adapters = []struct {
	operation any
	rest      string   // operationId of the document
	command   string   // of the command line
	chat      []string // in Telegram, without the slash
}{
	{(*control.Operations).Status, "getStatus", "status", []string{"daemon", "status"}},
	{(*control.Operations).CA, "getCA", "ca show", []string{"ca"}},
	{(*control.Operations).ListPools, "listPools", "pool list", []string{"pools"}},
	{(*control.Operations).Pool, "getPool", "pool status", []string{"status"}},
	{(*control.Operations).CreatePool, "createPool", "pool create", []string{"pool_create"}},
	{(*control.Operations).RemovePool, "removePool", "pool remove", []string{"pool_remove"}},
	{(*control.Operations).RotatePool, "rotatePool", "pool rotate", []string{"rotate"}},
	{(*control.Operations).ClearPool, "clearPool", "pool clear", []string{"clear"}},
	{(*control.Operations).AddMember, "addMember", "pool add-member", []string{"member_add"}},
	{(*control.Operations).RemoveMember, "removeMember", "pool remove-member", []string{"member_remove"}},
	{(*control.Operations).SetAuthResetTarget, "setAuthResetTarget", "pool set-auth-reset", []string{"auth_reset_set", "auth_reset_clear"}},
	{(*control.Operations).ResetAgents, "resetAgent", "pool reset-agent", []string{"reset_agent"}},
	{(*control.Operations).ListCredentials, "listCredentials", "cred list", []string{"credentials"}},
	{(*control.Operations).AddCredential, "addCredential", "cred add", []string{"cred_add"}},
	{(*control.Operations).UpdateCredential, "updateCredential", "cred update", []string{"cred_update"}},
	{(*control.Operations).RemoveCredential, "removeCredential", "cred remove", []string{"cred_remove"}},
	{(*control.Operations).ListTargets, "listTargets", "targets", []string{"targets"}},
	{(*control.Operations).Attach, "attachTarget", "attach", []string{"attach"}},
	{(*control.Operations).Detach, "detachTarget", "detach", []string{"detach"}},
	{(*control.Operations).DetachAll, "detachAllTargets", "detach", []string{"detach_all"}},
	{(*control.Operations).ListEvents, "listEvents", "events", []string{"events"}},
	{(*control.Operations).FollowEvents, "listEvents", "events", nil},
}

// local is what is not on every channel, and why.
var local = map[string]string{
	"chat FollowEvents":    "the notices are that, for what a person has to know",
	"operation Denied":     "channels note by it whom they did not let in",
	"rest getHealth":       "whether the daemon serves: who gets another answer in a chat knows",
	"rest getMetrics":      "for Prometheus",
	"rest getDocument":     "for programs that speak REST",
	"command serve":        "it is the daemon",
	"command run":          "starts a command as a child, with its terminal: attach in a cgroup of its own",
	"command __exec":       "the part of run inside the cgroup",
	"command __powers":     "the part of doctor that looks at the agents' processes",
	"command __man":        "pages for who packages sluice",
	"command doctor":       "looks at the host, also when no daemon can run",
	"command audit verify": "must not ask the daemon whether the daemon's log holds",
	"command cred import":  "reads a file of the caller's and adds what is in it",
	"command man":          "for the package: the manual, made of the help texts",
	"command token":        "prints a secret, and has to work before anybody can reach the daemon",
	"command backup":       "writes a file of the caller's with every secret in it; nothing to send over a network",
	"command restore":      "makes the state directory of a daemon that is stopped",
	"command vault rekey":  "works on the state directory of a daemon that is stopped",
	"command version":      "of the command itself",
	"command completion":   "for the shell",
	"chat-only help":       "what can be typed",
}

func nameOf(method any) string {
	full := runtime.FuncForPC(reflect.ValueOf(method).Pointer()).Name()
	return full[strings.LastIndexByte(full, '.')+1:]
}

// TestParity holds that each operation can be asked for on each channel, and that no
// channel has one that the others lack, but for what is local for a reason.
func TestParity(t *testing.T) {
	t.Parallel()
	used := make(map[string]bool)
	excused := func(key string) bool {
		used[key] = true
		return local[key] != ""
	}
	routes, lines, chats := restOperations(t), commandLines(), chatCommands()
	known := make(map[string]bool)
	onREST, onLine := make(map[string]bool), make(map[string]bool)
	onChat := make(map[string]bool)
	for _, a := range adapters {
		name := nameOf(a.operation)
		known[name] = true
		onREST[a.rest], onLine[a.command] = true, true
		if !slices.Contains(routes, a.rest) {
			t.Errorf("%s has no route: there is no %q", name, a.rest)
		}
		if !slices.Contains(lines, a.command) {
			t.Errorf("%s has no command: there is no %q", name, a.command)
		}
		if len(a.chat) == 0 && !excused("chat "+name) {
			t.Errorf("%s cannot be asked for in a chat", name)
		}
		for _, c := range a.chat {
			onChat[c] = true
			if does, there := chats[c]; !there || does != name && c != "status" {
				t.Errorf("%s: /%s is there: %v, and does %q", name, c, there, does)
			}
		}
	}
	for i := range reflect.TypeFor[*control.Operations]().NumMethod() {
		name := reflect.TypeFor[*control.Operations]().Method(i).Name
		if !known[name] && !excused("operation "+name) {
			t.Errorf("operation %s is on no channel: add it to adapters, or to local with the reason", name)
		}
	}
	for _, id := range routes {
		if !onREST[id] && !excused("rest "+id) {
			t.Errorf("route %s is REST's alone", id)
		}
	}
	for _, line := range lines {
		if !onLine[line] && !excused("command "+line) {
			t.Errorf("command %s is the command line's alone", line)
		}
	}
	for c := range chats {
		if !onChat[c] && !excused("chat-only "+c) {
			t.Errorf("/%s is Telegram's alone", c)
		}
	}
	for key, reason := range local {
		// A command that is not there needs no excuse, and one that comes has it.
		if reason == "" || !used[key] && !strings.HasPrefix(key, "command ") {
			t.Errorf("local: %q has nothing to excuse", key)
		}
	}
}

func restOperations(t *testing.T) []string {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(control.Document)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, item := range doc.Paths.Map() {
		for _, operation := range item.Operations() {
			all = append(all, operation.OperationID)
		}
	}
	return all
}

// commandLines are the commands that do something, without "sluice".
func commandLines() []string {
	root := newRoot(env{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, getenv: func(string) string { return "" }, now: time.Now})
	var all []string
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for _, child := range c.Commands() {
			walk(child)
		}
		if !c.HasSubCommands() {
			all = append(all, strings.TrimPrefix(c.CommandPath(), "sluice "))
		}
	}
	walk(root)
	return all
}

// chatCommands are the names in Telegram, and the operations that they ask for.
func chatCommands() map[string]string {
	all := make(map[string]string)
	for _, c := range telegram.Commands() {
		all[c.Name] = c.Operation
	}
	return all
}
