// Package source fetches secrets from where others keep them: the daemon's environment,
// files, HashiCorp Vault, and whatever a command can ask.
package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

const (
	// MaxSecret is the longest secret that is taken, in bytes: what the API takes, too.
	MaxSecret = 64 << 10
	// fetchTimeout is how long a source may take, whatever its own time-out is.
	fetchTimeout = 2 * time.Minute
)

// Options of [New]: what may be fetched. Whoever can add a credential can have its
// secret sent to a host of theirs, so what is not listed is refused. The zero value
// allows nothing.
type Options struct {
	// Env are the variables that may be used, by name.
	Env map[string]vault.Secret
	// Files are directories, absolute, below which files may be read.
	Files []string
	// HashiCorp is where HashiCorp Vault is. Without an address: nowhere.
	HashiCorp HashiCorp
	// Commands are the templates, by name.
	Commands map[string]Command
}

// provider is one kind of source.
type provider interface {
	// fetch reads what ref names, at most a byte more than [MaxSecret]. whole asks for all
	// fields of a secret that has several, as a JSON object. Its errors hold nothing of
	// what was read, and say what to do; errors that are no *[refusal] mean that it may
	// work later.
	fetch(ctx context.Context, ref string, whole bool) ([]byte, error)
}

// refusal is an error that stays until somebody changes the source or the configuration.
type refusal struct{ what string }

func (r *refusal) Error() string { return r.what }

func refused(format string, args ...any) error { return &refusal{fmt.Sprintf(format, args...)} }

// Sources are all that the configuration allows. Its methods may be called concurrently.
type Sources struct{ providers map[string]provider }

var _ pool.Sources = (*Sources)(nil)

// New makes the sources. Errors name the key of the configuration.
func New(o Options) (*Sources, error) {
	s := &Sources{providers: map[string]provider{"env": environment(o.Env), "file": files(o.Files), "vault": noVault{}}}
	commands := make(commands)
	for name, c := range o.Commands {
		if err := c.validate(); err != nil {
			return nil, fmt.Errorf("secrets.command.%s: %w", name, err)
		}
		commands[name] = c
	}
	s.providers["command"] = commands
	if o.HashiCorp.Address != "" {
		v, err := newHashiCorp(o.HashiCorp)
		if err != nil {
			return nil, fmt.Errorf("secrets.vault: %w", err)
		}
		s.providers["vault"] = v
	}
	return s, nil
}

// Fetch reads the secret that from names, such as "file:/etc/sluice/secrets/key". whole
// asks for all fields of a secret that has several, as a JSON object. One line break at
// the end is dropped. Errors are *[pool.Error] and hold nothing of the secret.
func (s *Sources) Fetch(ctx context.Context, from string, whole bool) (vault.Secret, error) {
	kind, ref, _ := strings.Cut(from, ":")
	p := s.providers[kind]
	if p == nil || ref == "" {
		// What was given may be the secret itself.
		return vault.Secret{}, &pool.Error{Code: pool.CodeInvalid, Message: "source: is none of " +
			"env:VARIABLE, file:/PATH, vault:MOUNT/PATH#FIELD and command:NAME:REF"}
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	text, err := p.fetch(ctx, ref, whole)
	if err == nil {
		text, err = tidy(text)
	}
	if err != nil {
		code := pool.CodeUnavailable
		if _, is := errors.AsType[*refusal](err); is {
			code = pool.CodeInvalid
		}
		return vault.Secret{}, &pool.Error{Code: code, Message: fmt.Sprintf("source %s: %s", from, err)}
	}
	return vault.NewSecret(text), nil
}

// tidy is what was read without the line break that tools and editors end it with.
func tidy(text []byte) ([]byte, error) {
	text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	begin := bytes.ToLower(bytes.TrimSpace(text[:min(len(text), 64)]))
	switch {
	case len(text) > MaxSecret:
		clear(text)
		return nil, refused("has more than %d bytes, which no key has: is it the right one?", MaxSecret)
	case len(bytes.TrimSpace(text)) == 0:
		return nil, refused("is empty: put the secret there")
	case slices.ContainsFunc([]string{"<!doctype", "<html", "<?xml"}, func(p string) bool { return bytes.HasPrefix(begin, []byte(p)) }):
		clear(text)
		return nil, errors.New("is a page of markup and no secret: a proxy or a login page may have answered")
	}
	return text, nil
}

// Matches says whether a name is one of the patterns: equal to it, or, if the pattern
// ends with *, beginning with what is before that.
func Matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		prefix, open := strings.CutSuffix(p, "*")
		return p == name || open && strings.HasPrefix(name, prefix)
	})
}

// climbs says whether a path has parts that lead out of what it begins with.
func climbs(path string) bool {
	return slices.ContainsFunc(strings.Split(path, "/"), func(part string) bool { return part == "." || part == ".." })
}

// printable says whether a reference is one line of text.
func printable(ref string) bool {
	return !strings.ContainsFunc(ref, func(r rune) bool { return r < ' ' || r == 0x7f || r == '�' })
}
