package pool

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sluice-proxy/sluice/pool/vault"
)

// maxSource is the longest source, in bytes: what the API takes, too.
const maxSource = 1024

// Sources fetches secrets from where others keep them; *source.Sources does.
type Sources interface {
	// Fetch reads the secret that from names, such as "file:/etc/sluice/secrets/key". whole
	// asks for all fields of a secret that has several, as a JSON object. Errors are
	// *[Error], fit to be shown, and hold nothing of the secret. It may be called
	// concurrently, and ends when ctx does.
	Fetch(ctx context.Context, from string, whole bool) (vault.Secret, error)
}

func validSource(source string) error {
	kind, ref, _ := strings.Cut(source, ":")
	if kind == "" || ref == "" || len(source) > maxSource || strings.ContainsFunc(source, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return invalid("source: is not like env:VARIABLE, file:/PATH, vault:MOUNT/PATH#FIELD or command:NAME:REF, of %d bytes at the most", maxSource)
	}
	return nil
}

// fetched is what a source holds.
type fetched struct {
	secret vault.Secret // of a static credential
	oauth  *OAuthTokens // of an account
	digest []byte       // tells it from what it held before
}

// zero overwrites what was read, once it is sealed or of no use.
func (f *fetched) zero() {
	if f == nil {
		return
	}
	f.secret.Zero()
	if f.oauth != nil {
		f.oauth.AccessToken.Zero()
		f.oauth.RefreshToken.Zero()
	}
}

// fetch reads a source and checks what is there.
func (k *Keeper) fetch(ctx context.Context, source string, t CredentialType) (*fetched, error) {
	if k.opts.Sources == nil {
		return nil, invalid("source: there is none here: give the secret itself")
	}
	secret, err := k.opts.Sources.Fetch(ctx, source, t == OAuth)
	if err != nil {
		return nil, err
	}
	digest := hmac.New(sha256.New, k.key)
	digest.Write([]byte("fetched\x00"))
	digest.Write(secret.Bytes())
	got := &fetched{digest: digest.Sum(nil)}
	if t == OAuth {
		defer secret.Zero()
		if got.oauth, err = ParseTokens(secret.Bytes()); err == nil {
			err = got.oauth.validate()
		}
	} else {
		got.secret = secret
		err = validSecret("what it holds", secret)
	}
	if err != nil {
		got.zero()
		return nil, invalid("source %s: %s", source, err)
	}
	return got, nil
}

// fetchFor reads the source that a change is about; nil if it is about none.
func (k *Keeper) fetchFor(ctx context.Context, name string, ch CredentialChange) (*fetched, error) {
	if ch.Source == nil || *ch.Source == "" {
		return nil, nil
	}
	if ch.Secret != nil || ch.OAuth != nil {
		return nil, invalid("source: a secret or tokens are given, too: one of them, not both")
	}
	if err := validSource(*ch.Source); err != nil {
		return nil, err
	}
	c, there := k.view.credential(name)
	if !there {
		return nil, k.view.near(NoCredential(name))
	}
	return k.fetch(ctx, *ch.Source, c.Type)
}

// take puts what a source holds in the place of what a credential has. It says no if the
// source holds what it did when it was read last: an account's tokens may have been
// replaced by newer ones since, and the old ones are spent.
func (k *Keeper) take(m *material, c *Credential, got *fetched) (another bool, err error) {
	if bytes.Equal(m.Fetched, got.digest) {
		return false, nil
	}
	if (got.oauth != nil) != (c.Type == OAuth) {
		return false, Conflict("%q was removed and made anew meanwhile: look at what it is now", c.Name)
	}
	m.Fetched = got.digest
	if got.oauth != nil {
		k.replaceTokens(m, c, got.oauth)
	} else {
		m.Secret = got.secret.Bytes()
	}
	return true, nil
}

// keepFetched makes what a source was found to hold durable and then visible, or why it
// could not be read. told says that people are to know of that. It changes nothing if
// the credential has another source by now.
func (k *Keeper) keepFetched(ctx context.Context, name, source string, got *fetched, failed error, told bool) error {
	defer got.zero()
	k.mu.Lock()
	defer k.mu.Unlock()
	r, m, err := k.account(ctx, name)
	if errors.Is(err, errReplaced) || err == nil && r.Credential.Source != source {
		return nil
	}
	if err != nil {
		return err
	}
	c := &r.Credential
	e := Event{Kind: EventFetched, Pool: c.Pool, Member: name, Reason: "from " + source, Time: k.opts.Now()}
	another, before := false, c.SourceError
	if failed == nil {
		c.SourceError = ""
		if another, err = k.take(m, c, got); err != nil {
			return err
		}
		if !another && before == "" {
			return nil
		}
		if !another {
			e.Reason += ", again, and unchanged"
		}
		if r.Sealed, err = k.seal(m); err != nil {
			return err
		}
	} else {
		c.SourceError = oneLine(failed)
		if !told || c.SourceError == before {
			return nil
		}
		e.Kind, e.Reason, e.Detail = EventFetchFailed, c.SourceError, "it goes on with what was read last"
	}
	if failed == nil || before == "" { // another reason for the same is no news
		ctx = context.WithValue(ctx, noteKey{}, e)
	}
	if err := k.replace(ctx, r, m, another, nil); err != nil {
		return fmt.Errorf("store what was fetched: %w", err)
	}
	if another {
		k.refresh.forget(name)
	}
	return nil
}

// oneLine is an error as it is shown: on one line.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// ParseTokens reads an OAuth account: a JSON object with "access_token", "refresh_token"
// and "expires_at" (RFC 3339). Its errors name fields, not what is in them.
func ParseTokens(raw []byte) (*OAuthTokens, error) {
	const shape = `: a JSON object with "access_token", "refresh_token" and "expires_at" is needed`
	var fields map[string]json.RawMessage
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if err := decoder.Decode(&fields); err != nil || fields == nil {
		return nil, errors.New("not a JSON object" + shape)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object" + shape)
	}
	values := make(map[string]string)
	for _, name := range []string{"access_token", "refresh_token", "expires_at"} {
		var value string
		if err := json.Unmarshal(fields[name], &value); err != nil || value == "" {
			return nil, fmt.Errorf("%s is missing, empty or no string%s", name, shape)
		}
		values[name] = value
		delete(fields, name)
	}
	for name := range fields {
		return nil, fmt.Errorf("unknown field %q%s and nothing else", name, shape)
	}
	at, err := time.Parse(time.RFC3339, values["expires_at"])
	if err != nil {
		return nil, errors.New("expires_at is not of the form 2006-01-02T15:04:05Z")
	}
	return &OAuthTokens{
		AccessToken: vault.NewSecret([]byte(values["access_token"])), RefreshToken: vault.NewSecret([]byte(values["refresh_token"])),
		ExpiresAt: at.UTC(),
	}, nil
}
