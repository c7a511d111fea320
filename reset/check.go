package reset

import (
	"encoding/json"
	"fmt"
)

// maxCheckFile is how much a checked file may have, in bytes.
const maxCheckFile = 4 << 20

// latched counts the entries of a target that hermes' auth.json holds for exhausted:
// credential_pool maps a provider to its credentials, each with a last_status. What
// does not name the target holds nothing of it.
func latched(file []byte, target string) (int, error) {
	var auth struct {
		Pools map[string]json.RawMessage `json:"credential_pool"`
	}
	if err := json.Unmarshal(file, &auth); err != nil {
		return 0, fmt.Errorf("is not JSON: %w", err)
	}
	raw, ok := auth.Pools[target]
	if !ok {
		return 0, nil
	}
	var entries []struct {
		Status string `json:"last_status"`
	}
	if err := json.Unmarshal(raw, &entries); err != nil {
		return 0, fmt.Errorf("credential_pool of %s is no list of credentials", target)
	}
	n := 0
	for _, e := range entries {
		if e.Status == "exhausted" {
			n++
		}
	}
	return n, nil
}
