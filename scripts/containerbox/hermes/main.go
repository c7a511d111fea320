// Command hermes stands in for an agent that latches: once it has been refused it asks no more until somebody resets it.
//
//	hermes ask URL                 asks once, with the key in OPENAI_API_KEY
//	hermes auth reset PROVIDER     forgets the refusal
//
// What it remembers is in ~/.hermes/auth.json. With HERMES_RELEASE=2026-08 it is a release whose reset
// says that it did it and changes nothing.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// provider is the only one that it knows.
const provider = "openai-codex"

// exitLatched says that nothing was asked.
const exitLatched = 75

// entry is a credential as the agent remembers it.
type entry struct {
	ID      string  `json:"id"`
	Status  *string `json:"last_status"`
	ResetAt *string `json:"last_error_reset_at"`
}

// auth is the file.
type auth struct {
	Version int                `json:"version"`
	Pools   map[string][]entry `json:"credential_pool"`
}

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "hermes:", err)
	}
	os.Exit(code)
}

func run(args []string) (int, error) {
	switch {
	case len(args) == 2 && args[0] == "ask":
		return ask(args[1])
	case len(args) == 3 && args[0] == "auth" && args[1] == "reset":
		return reset(args[2])
	}
	return 2, fmt.Errorf("unknown command %q", args)
}

func file() string { return filepath.Join(os.Getenv("HOME"), ".hermes", "auth.json") }

func load() (auth, error) {
	a := auth{Version: 1, Pools: map[string][]entry{provider: {{ID: "a"}}}}
	text, err := os.ReadFile(file())
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(text, &a)
}

// save replaces the file, which belongs to whoever runs this from then on.
func (a auth) save() error {
	text, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file()), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(file()+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(file()+".new", file())
}

func ask(url string) (int, error) {
	a, err := load()
	if err != nil {
		return 1, err
	}
	for _, e := range a.Pools[provider] {
		if e.Status != nil && *e.Status == "exhausted" {
			return exitLatched, fmt.Errorf("the credential is exhausted until %s", *e.ResetAt)
		}
	}
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(`{"model":"m","messages":[{"role":"user","content":"hi"}]}`))
	if err != nil {
		return 1, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+os.Getenv("OPENAI_API_KEY"))
	resp, err := (&http.Client{Timeout: 20 * time.Second}).Do(req)
	if err != nil {
		return 1, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 1, err
	}
	fmt.Println(resp.StatusCode)
	if resp.StatusCode != http.StatusTooManyRequests {
		return 0, nil
	}
	status, until := "exhausted", time.Now().Add(72*time.Hour).UTC().Format(time.RFC3339)
	for i := range a.Pools[provider] {
		a.Pools[provider][i].Status, a.Pools[provider][i].ResetAt = &status, &until
	}
	return 0, a.save()
}

func reset(name string) (int, error) {
	a, err := load()
	if err != nil {
		return 1, err
	}
	entries, ok := a.Pools[name]
	if !ok {
		return 1, fmt.Errorf("unknown provider %q", name)
	}
	for i := range entries {
		entries[i].Status, entries[i].ResetAt = nil, nil
	}
	if os.Getenv("HERMES_RELEASE") != "2026-08" {
		if err := a.save(); err != nil {
			return 1, err
		}
	}
	fmt.Printf("Reset status on %d %s credentials\n", len(entries), name)
	return 0, nil
}
