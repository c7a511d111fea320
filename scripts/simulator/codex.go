package simulator

import (
	"net/http"
	"strconv"
	"time"
)

// The windows of a ChatGPT plan, in minutes: five hours and a week.
const (
	codexPrimaryMinutes   = "300"
	codexSecondaryMinutes = "10080"
)

// codexLimits are the usage headers of chatgpt.com/backend-api/codex.
func codexLimits(h http.Header, limit, left int, now time.Time) {
	used := 100 * (limit - left) / max(1, limit)
	for name, values := range codexWindows(strconv.Itoa(min(99, used)), time.Hour, now) {
		h[http.CanonicalHeaderKey(name)] = values
	}
}

func codexWindows(used string, wait time.Duration, now time.Time) map[string][]string {
	return fields(
		"x-codex-plan-type", "plus",
		"x-codex-primary-used-percent", used, "x-codex-primary-window-minutes", codexPrimaryMinutes,
		"x-codex-primary-reset-after-seconds", seconds(wait), "x-codex-primary-reset-at", epoch(now.Add(wait)),
		"x-codex-secondary-used-percent", "4", "x-codex-secondary-window-minutes", codexSecondaryMinutes,
		"x-codex-secondary-reset-after-seconds", "517170", "x-codex-secondary-reset-at", epoch(now.Add(517170*time.Second)))
}

// codexBody is a usage limit that only the body tells of.
func codexBody(_ int, wait time.Duration, now time.Time) refusal {
	return refusal{Status: http.StatusTooManyRequests, Body: text(map[string]any{"error": map[string]any{
		"type": "usage_limit_reached", "message": "The usage limit has been reached", "plan_type": "plus",
		"resets_at": now.Add(wait + time.Second - 1).Unix(), "resets_in_seconds": int64((wait + time.Second - 1) / time.Second),
	}})}
}

// codexHeaders is the same with the usage windows in the headers.
func codexHeaders(limit int, wait time.Duration, now time.Time) refusal {
	r := codexBody(limit, wait, now)
	r.Header = codexWindows("100", wait, now)
	return r
}

// accountsPath is where Codex asks for its workspaces; without one of its own account it
// does not go on.
const accountsPath = "/backend-api/wham/accounts/check"

func accounts(v *visit) {
	v.json(http.StatusOK, map[string]any{"accounts": []any{map[string]any{
		"id": v.verdict.Account, "plan_type": "plus",
		"workspace_backend_origin": "https://chatgpt.com", "account_routing_override": "NO_CONSTRAINT",
	}}})
}
