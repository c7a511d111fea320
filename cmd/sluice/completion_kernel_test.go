package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestCompletion asks for the names that a real daemon has, in each place where one may stand.
func TestCompletion(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	h.sluice("s", "cred", "add", "spare")
	for _, c := range []struct {
		words     string // the last one is what was typed of it; empty behind a space
		want      string
		directive string
	}{
		{"pool status ", "claude openai", noFiles},
		{"pool status -o json op", "openai", noFiles},
		{"pool status openai ", "", noFiles},
		{"pool rotate ", "claude openai", noFiles},
		{"pool add-member openai ", "spare", noFiles},
		{"pool remove-member openai ", "a1 a2", noFiles},
		{"pool clear claude ", "c1 c2", noFiles},
		{"pool create new --members ", "spare", noFilesNoSpace},
		{"pool create new --members a1,s", "a1,spare", noFilesNoSpace},
		{"pool create new --members spare,", "", noFilesNoSpace},
		{"pool create new --provider ", "anthropic codex gemini github openai openrouter", noFiles},
		{"cred update ", "a1 a2 c1 c2 spare", noFiles},
		{"cred remove s", "spare", noFiles},
		{"cred add new --type ", "static oauth", noFiles},
		{"attach --pool ", "claude openai", noFiles},
		{"run --pool c", "claude", noFiles},
		{"detach ", "", noFiles},
	} {
		words := strings.Split(c.words, " ")
		found, directive := offered(t, h.socket, words...)
		if slices.Sort(found); !slices.Equal(found, sorted(c.want)) || directive != c.directive {
			t.Errorf("%q: %v and %s, want %s and %s", c.words, found, directive, c.want, c.directive)
		}
	}
	h.inBash("sluice pool status op", "openai")
	h.inBash("sluice pool create n --members spa", "spare")
	h.inBash("sluice -o js", "json")
	h.inBash("sluice pool stat", "status")
}

// inBash has bash complete a line, by the script that sluice prints and the functions of the
// package bash-completion.
func (h *house) inBash(line, want string) {
	h.t.Helper()
	const library = "/usr/share/bash-completion/bash_completion"
	if _, err := os.Stat(library); err != nil {
		lacking(h.t, "%s is not there, scripts/deps.sh installs it", library)
	}
	h.write("completion.bash", h.sluice("", "completion", "bash"))
	const script = `set -eu; set +u
. "$1"; . "$2"
COMP_LINE=$3 COMP_POINT=${#3} COMP_TYPE=9 COMP_KEY=9
read -ra COMP_WORDS <<<"$3"; COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
__start_sluice sluice "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}" || true
printf '%s\n' "${COMPREPLY[@]}"`
	cmd := exec.Command("bash", "--norc", "-c", script, "bash", library, filepath.Join(h.dir, "completion.bash"), line)
	cmd.Env = []string{"PATH=" + h.dir + ":" + os.Getenv("PATH"), "SLUICE_SOCKET=" + h.socket, quickExit}
	out, err := cmd.Output() // on standard error compopt says that no key was pressed
	if got := strings.TrimSpace(string(out)); err != nil || got != want {
		h.t.Errorf("bash completes %q with %q, want %q: %v", line, got, want, err)
	}
}
