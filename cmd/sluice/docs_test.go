package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// pages are what people read.
func pages(t *testing.T) map[string]string {
	t.Helper()
	root := filepath.Join("..", "..")
	found := make(map[string]string)
	for _, pattern := range []string{"*.md", "docs/*.md", "scripts/*.md"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			found[file] = string(text)
		}
	}
	if len(found) < 10 {
		t.Fatalf("only %d pages", len(found))
	}
	return found
}

// anchors are the names by which the headings of a page can be linked to.
func anchors(text string) map[string]bool {
	found := make(map[string]bool)
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(text, -1) {
		name := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		found[strings.ReplaceAll(name, " ", "-")] = true
	}
	return found
}

// TestLinks follows each link of the pages that stays in the repository.
func TestLinks(t *testing.T) {
	t.Parallel()
	all := pages(t)
	for file, text := range all {
		for _, link := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(text, -1) {
			path, anchor, _ := strings.Cut(link[1], "#")
			if strings.Contains(path, "://") || strings.HasPrefix(path, "mailto:") {
				continue
			}
			to := file
			if path != "" {
				to = filepath.Join(filepath.Dir(file), path)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: %s leads nowhere", file, link[1])
			} else if page, ok := all[to]; ok && anchor != "" && !anchors(page)[anchor] {
				t.Errorf("%s: %s: there is no such heading", file, link[1])
			}
		}
	}
}

// TestCommandsInPages looks up each command of sluice that a page shows, with its flags.
func TestCommandsInPages(t *testing.T) {
	t.Parallel()
	shown := regexp.MustCompile("(?m)(?:^    (?:sudo )?(?:bin/)?|`(?:sudo )?)sluice ([a-z][^`\n#|]*)")
	seen := 0
	for file, text := range pages(t) {
		for _, match := range shown.FindAllStringSubmatch(text, -1) {
			line, _, _ := strings.Cut(match[1], " -- ") // what follows is the agent's command
			words := strings.Fields(line)
			seen++
			cmd, _, err := newRoot(defaultEnv()).Find(words)
			if err != nil || !cmd.HasParent() {
				t.Errorf("%s: there is no 'sluice %s' (%v)", file, line, err)
				continue
			}
			for _, word := range words {
				name, _, _ := strings.Cut(strings.TrimRight(word, ",.:;]"), "=")
				long, ok := strings.CutPrefix(name, "--")
				if ok && long != "" && long != "help" && cmd.Flags().Lookup(long) == nil && cmd.InheritedFlags().Lookup(long) == nil {
					t.Errorf("%s: 'sluice %s' has no %s", file, line, name)
				}
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d commands were found in the pages", seen)
	}
}
