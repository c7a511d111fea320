package pool

import "bytes"

// Costless says of a request to a provider's API that it spends nothing of a quota, so that a good
// answer does not say that its member is back: a list of models, a handshake, a count of tokens, what
// an agent reports of itself. Of other hosts' requests, which may be counted whatever they ask
// for, it says so of none.
func Costless(provider string, method, target []byte) bool {
	if provider == "" || provider == "github" {
		return false
	}
	if string(method) != "POST" {
		return true
	}
	path, _, _ := bytes.Cut(target, []byte("?"))
	switch provider {
	case "anthropic": // Claude Code reports to the API's host
		return !endsIn(path, "/messages", "/complete", "/completions", "/batches")
	case "codex": // so does Codex
		return !bytes.Contains(path, []byte("/responses"))
	}
	return endsIn(path, "/input_tokens", ":countTokens", "/count_tokens", "/moderations")
}

// Aside says of a request to a provider's API that it asks for nothing that the members' quota is
// for: how much of that is used, who the account is, what an agent reports of itself or counts
// before it asks. That has limits and permissions of its own: Anthropic's display of usage is
// refused (429) to who looks twice in a minute, and to keys at all (401).
func Aside(provider string, target []byte) bool {
	path, _, _ := bytes.Cut(target, []byte("?"))
	switch provider {
	case "anthropic":
		return beginsWith(path, "/api/", "/v1/code/", "/v1/mcp_servers", "/v1/oauth/") || endsIn(path, "/count_tokens")
	case "codex":
		return beginsWith(path, "/backend-api/wham/", "/backend-api/ps/", "/backend-api/plugins/", "/backend-api/connectors/", "/codex/") ||
			bytes.Contains(path, []byte("/analytics-events/"))
	}
	return false
}

// Standing says of a request to a provider's API that it asks how an account stands: who it is, and
// how much of its plan is used, or whether the API is there at all. An account that is used up answers
// that, too, and Codex does not start without, nor Claude Code for the first time in a terminal.
func Standing(provider string, method, target []byte) bool {
	if string(method) != "GET" {
		return false
	}
	switch provider {
	case "anthropic":
		return beginsWith(target, "/api/oauth/", "/api/hello")
	case "codex":
		return beginsWith(target, "/backend-api/wham/")
	}
	return false
}

func beginsWith(path []byte, beginnings ...string) bool {
	for _, b := range beginnings {
		if len(path) >= len(b) && string(path[:len(b)]) == b {
			return true
		}
	}
	return false
}

func endsIn(path []byte, ends ...string) bool {
	for _, end := range ends {
		if len(path) >= len(end) && string(path[len(path)-len(end):]) == end {
			return true
		}
	}
	return false
}
