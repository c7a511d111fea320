package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// tested marks the blocks of the pages that are executed; what is before it on a page has been by then.
var tested = regexp.MustCompile(`(?m)^<!-- tested(?: with a pool)? -->\n((?:\n|    .*\n)+)`)

// commandsOf are the lines of a marked block that are typed: all of them, or those with a prompt in a transcript.
func commandsOf(block string) []string {
	var lines, prompted []string
	for line := range strings.Lines(block) {
		line = strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(line, "    "), "\n"), "bin/sluice", "sluice")
		if line == "" {
			continue
		}
		lines = append(lines, line)
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			prompted = append(prompted, command)
		}
	}
	if len(prompted) > 0 {
		return prompted
	}
	return lines
}

// machine is what a page's commands find: a sudo, a systemctl that knows one unit, keys where a terminal is asked for
// one, and the logins of two agents.
const machine = `set -euo pipefail
sudo() { "$@"; }
systemctl() {
	case "$1" in
	start) command sluice serve --config "$CONFIG" --state-dir "$STATE" >>"$LOG" 2>&1 & echo $! >"$PID"
		for _ in $(seq 200); do sluice status >/dev/null 2>&1 && return; sleep 0.1; done; return 1 ;;
	stop) kill "$(cat "$PID")" && while [ -d "/proc/$(cat "$PID")" ] && ! grep -qs "^State:.Z" "/proc/$(cat "$PID")/status"; do sleep 0.05; done ;;
	reload) kill -HUP "$(cat "$PID")" ;;
	*) return 1 ;;
	esac
}
sluice() {
	case "${1-} ${2-}" in
	"cred add"|"cred update") if [ -p /dev/stdin ]; then command sluice "$@"; else echo "sk-typed-$RANDOM" | command sluice "$@"; fi ;;
	*) command sluice "$@" ;;
	esac
}
trap 'systemctl stop sluice || true' EXIT
systemctl start sluice
trap 'echo "failed: $BASH_COMMAND" >&2' ERR
`

const (
	codexLogin  = `{"OPENAI_API_KEY":"sk-codex-16180339887"}`
	hermesLogin = `{"credential_pool":{"openrouter":[{"id":"a1","label":"main","auth_type":"api_key","access_token":"sk-or-2718281828"}]}}`
)

// TestTestedBlocks executes the marked blocks of each page, in their order, against a daemon with nothing in it.
func TestTestedBlocks(t *testing.T) {
	t.Parallel()
	seen := 0
	for file, text := range pages(t) {
		var script []string
		for _, block := range tested.FindAllStringSubmatch(text, -1) {
			script = append(script, commandsOf(block[1])...)
		}
		if len(script) == 0 {
			continue
		}
		if strings.Contains(text, "<!-- tested with a pool -->") {
			script = append([]string{"sluice cred add first", "sluice pool create openai --members first --provider openai"}, script...)
		}
		seen += len(script)
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			needs(t, "bash", "openssl", "curl")
			h := newEmptyHouse(t, nil, nil)
			h.daemon.kill()
			h.write("run.sh", machine+strings.Join(script, "\n")+"\n")
			for name, login := range map[string]string{".codex/auth.json": codexLogin, ".hermes/auth.json": hermesLogin} {
				if err := os.MkdirAll(filepath.Join(h.dir, filepath.Dir(name)), 0o700); err != nil {
					t.Fatal(err)
				}
				h.write(name, login)
			}
			// Where sluice keeps things is the test's own, and empty: in the mount namespace of the commands.
			places := `set -e; for dir in /var/lib /var/backups /run; do mount -t tmpfs none $dir; done; mkdir /run/sluice; exec bash run.sh`
			cmd := h.agentFor(3*time.Minute, []string{
				"CONFIG=" + filepath.Join(h.dir, "config.toml"), "STATE=/var/lib/sluice", "LOG=" + filepath.Join(h.dir, "log"),
				"PID=" + filepath.Join(h.dir, "pid"), "SLUICE_SOCKET=/run/sluice/sluice.sock",
			}, "bash", "-c", places)
			out, err := cmd.CombinedOutput()
			if err != nil {
				log, _ := os.ReadFile(filepath.Join(h.dir, "log"))
				t.Fatalf("%v: %s\nthe daemon's log:\n%s", err, out, log)
			}
			t.Logf("%s", out)
		})
	}
	if seen < 20 {
		t.Errorf("only %d commands of the pages are executed", seen)
	}
}
