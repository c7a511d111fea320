package telegram

import (
	"regexp"
	"strings"
	"unicode"

	"github.com/sluice-proxy/sluice/pool"
)

// words splits what follows a command at spaces; what is in quotation marks, those
// that phones make of straight ones too, is one word.
func words(text string) ([]string, error) {
	var all []string
	var word strings.Builder
	inside, begun := false, false
	for _, r := range text {
		switch {
		case strings.ContainsRune("\"“”„", r):
			inside, begun = !inside, true
		case unicode.IsSpace(r) && !inside:
			if begun {
				all = append(all, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	if inside {
		return nil, &pool.Error{Code: pool.CodeInvalid, Message: "a quotation mark has no second one"}
	}
	if begun {
		all = append(all, word.String())
	}
	return all, nil
}

// command takes "/name@bot rest" apart. It is none of ours if it has another
// bot's name.
func command(text, username string) (name, rest string, ours bool) {
	text, found := strings.CutPrefix(text, "/")
	if !found {
		return "", "", false
	}
	end := strings.IndexFunc(text, unicode.IsSpace)
	if end < 0 {
		end = len(text)
	}
	name, rest = text[:end], text[end:]
	name, bot, addressed := strings.Cut(name, "@")
	if addressed && !strings.EqualFold(bot, username) {
		return "", "", false
	}
	return strings.ToLower(name), rest, true
}

// settings reads words of the form key=value; keys are those there are.
func settings(given []string, keys ...string) (map[string]string, error) {
	values := make(map[string]string)
	for _, word := range given {
		key, value, found := strings.Cut(word, "=")
		known := false
		for _, k := range keys {
			known = known || k == key
		}
		_, twice := values[key]
		switch {
		case !found || !known:
			return nil, invalid("%s: not one of %s=...", key, strings.Join(keys, "=..., "))
		case twice:
			return nil, invalid("%s: given twice", key)
		}
		values[key] = value
	}
	return values, nil
}

// secretForms are what keys and tokens look like.
var secretForms = regexp.MustCompile(`(?i)` + strings.Join([]string{
	`\bsk-[a-z0-9_-]{12,}`,                     // OpenAI, Anthropic, OpenRouter
	`\b(gh[pousr]_|github_pat_)[a-z0-9_]{16,}`, // GitHub
	`\bAIza[a-z0-9_-]{20,}`,                    // Google
	`\bsluice_[0-9a-f]{16,}`,                   // our own
	`\bxox[a-z]-[a-z0-9-]{10,}`,                // Slack
	`\beyJ[a-z0-9_-]{8,}\.[a-z0-9_-]{8,}\.`,    // JSON Web Tokens
	`\b(secret|api[_-]?key|access_token|refresh_token|token)"?\s*[=:]\s*"?\S{8,}`, // said so
	`\bbearer\s+[a-z0-9._~+/-]{12,}`,
	`-----BEGIN [A-Z ]*PRIVATE KEY`,
}, "|"))

// carriesSecret says whether a message looks as if it held what nobody in a chat
// should see.
func carriesSecret(text string) bool { return secretForms.MatchString(text) }
