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

func endsIn(path []byte, ends ...string) bool {
	for _, end := range ends {
		if len(path) >= len(end) && string(path[len(path)-len(end):]) == end {
			return true
		}
	}
	return false
}
