package control

import (
	"context"

	"github.com/sluice-proxy/sluice/pool"
)

// Credentials keeps the credentials; *pool.Keeper is one. Errors are *[pool.Error].
type Credentials interface {
	AddCredential(ctx context.Context, s pool.CredentialSpec) (pool.Credential, error)
	Credentials(ctx context.Context) ([]pool.Credential, error)
	UpdateCredential(ctx context.Context, name string, c pool.CredentialChange) (pool.Credential, error)
	RemoveCredential(ctx context.Context, name string) error
}

// ListCredentials lists the credentials by name.
func (o *Operations) ListCredentials(ctx context.Context) ([]pool.Credential, error) {
	return o.o.Credentials.Credentials(ctx)
}

// AddCredential stores a credential.
func (o *Operations) AddCredential(ctx context.Context, by Actor, s pool.CredentialSpec) (made pool.Credential, err error) {
	err = o.change(ctx, by, "credential added", []string{s.Name}, func(ctx context.Context) error {
		made, err = o.o.Credentials.AddCredential(ctx, s)
		return err
	})
	return made, err
}

// UpdateCredential replaces what is given of a credential.
func (o *Operations) UpdateCredential(
	ctx context.Context, by Actor, name string, c pool.CredentialChange,
) (changed pool.Credential, err error) {
	err = o.change(ctx, by, "credential updated", []string{name}, func(ctx context.Context) error {
		if changed, err = o.o.Credentials.UpdateCredential(ctx, name, c); err != nil || c.TokenURL == nil {
			return err
		}
		o.o.Authority.Confide()
		return nil
	})
	return changed, err
}

// RemoveCredential forgets a credential that no pool holds.
func (o *Operations) RemoveCredential(ctx context.Context, by Actor, name string) error {
	return o.change(ctx, by, "credential removed", []string{name}, func(ctx context.Context) error {
		return o.o.Credentials.RemoveCredential(ctx, name)
	})
}
