package simulator

import (
	"net/http"
	"strconv"
	"time"
)

func githubDialect() dialect {
	return dialect{
		name: "github", refusal: "github", limits: githubLimits, failure: githubFailure,
		event:        func(_ int, body []byte) (string, []byte) { return "", body },
		unauthorized: refusal{Status: http.StatusUnauthorized, Body: text(githubFailure(401, "", "", "Bad credentials"))},
	}
}

// githubLimits: the reset is an epoch, an hour ahead.
func githubLimits(h http.Header, limit, left int, now time.Time) {
	h.Set("X-RateLimit-Limit", strconv.Itoa(limit))
	h.Set("X-RateLimit-Remaining", strconv.Itoa(left))
	h.Set("X-RateLimit-Used", strconv.Itoa(limit-left))
	h.Set("X-RateLimit-Reset", epoch(now.Add(time.Hour)))
	h.Set("X-RateLimit-Resource", "core")
}

func githubFailure(status int, _, _, message string) any {
	return map[string]any{
		"message": message, "documentation_url": "https://docs.github.com/rest", "status": strconv.Itoa(status),
	}
}

func githubPrimary(limit int, wait time.Duration, now time.Time) refusal {
	h := make(http.Header)
	githubLimits(h, limit, 0, now)
	h.Set("X-RateLimit-Reset", epoch(now.Add(wait)))
	return refusal{
		Status: http.StatusForbidden, Header: h,
		Body: text(githubFailure(403, "", "", "API rate limit exceeded for user ID 1. If you reach out to GitHub Support for help, please include the request ID.")),
	}
}

// githubSecondary leaves something in the primary window.
func githubSecondary(limit int, wait time.Duration, now time.Time) refusal {
	h := make(http.Header)
	githubLimits(h, limit, max(1, limit-1), now)
	h.Set("Retry-After", seconds(wait))
	return refusal{
		Status: http.StatusForbidden, Header: h,
		Body: text(githubFailure(403, "", "", "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.")),
	}
}

// github answers every path with the account that asks.
func github(v *visit) {
	if !v.drain() {
		return
	}
	v.json(http.StatusOK, map[string]any{"login": "octocat", "id": 1, "type": "User", "path": v.r.URL.Path})
}
