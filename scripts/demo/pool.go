package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/sluice-proxy/sluice/scripts/sandbox"
)

const poolName = "demo"

// makePool stores the two keys and makes a pool of them.
func makePool(ctx context.Context, d *sandbox.Daemon) error {
	for _, step := range []struct {
		stdin string
		args  []string
	}{
		{firstSecret, []string{"cred", "add", "first"}},
		{secondSecret, []string{"cred", "add", "second"}},
		{"", []string{"pool", "create", poolName, "--members", "first,second", "--provider", "openai"}},
	} {
		if _, err := d.Sluice(ctx, step.stdin, step.args...); err != nil {
			return err
		}
	}
	return nil
}

// poolStatus is what the demo reads of `sluice pool status -o json`.
type poolStatus struct {
	State   string `json:"state"`
	Active  string `json:"active"`
	Members []struct {
		Name      string `json:"name"`
		State     string `json:"state"`
		Remaining int    `json:"remaining_seconds"`
		Reason    string `json:"reason"`
	} `json:"members"`
}

func readStatus(ctx context.Context, d *sandbox.Daemon) (poolStatus, error) {
	var s poolStatus
	out, err := d.Sluice(ctx, "", "pool", "status", poolName, "-o", "json")
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(out, &s); err != nil {
		return s, fmt.Errorf("sluice pool status -o json: %w: %s", err, out)
	}
	return s, nil
}

// out says who is out, and for how long.
func (s poolStatus) out() string {
	var all []string
	for _, m := range s.Members {
		if m.State == "cooldown" {
			all = append(all, fmt.Sprintf("%s out for %d s", m.Name, m.Remaining))
		}
	}
	return strings.Join(all, ", ")
}
