package api

import (
	"fmt"
	"io"
	"log/slog"
)

// What the generated types hold of secrets is strings, and has to be in their JSON. How
// else they are printed, nothing is shown.

const redacted = "REDACTED"

// Format implements [fmt.Formatter].
func (OAuthTokens) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// LogValue implements [slog.LogValuer].
func (OAuthTokens) LogValue() slog.Value { return slog.StringValue(redacted) }

// Format implements [fmt.Formatter].
func (h ExtraHeader) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, h.Name+": "+redacted) }

// LogValue implements [slog.LogValuer].
func (h ExtraHeader) LogValue() slog.Value { return slog.StringValue(h.Name + ": " + redacted) }

// Format implements [fmt.Formatter].
func (s CredentialSpec) Format(to fmt.State, _ rune) {
	_, _ = io.WriteString(to, "credential "+s.Name+": "+redacted)
}

// LogValue implements [slog.LogValuer].
func (s CredentialSpec) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(s)) }

// Format implements [fmt.Formatter].
func (CredentialChange) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// LogValue implements [slog.LogValuer].
func (CredentialChange) LogValue() slog.Value { return slog.StringValue(redacted) }
