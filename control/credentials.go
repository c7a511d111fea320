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
func (o *Operations) AddCredential(ctx context.Context, by Actor, s pool.CredentialSpec) (pool.Credential, error) {
	made, err := o.o.Credentials.AddCredential(ctx, s)
	if err != nil {
		return pool.Credential{}, err
	}
	o.did(by, "credential added", "credential", made.Name)
	return made, nil
}

// UpdateCredential replaces what is given of a credential.
func (o *Operations) UpdateCredential(ctx context.Context, by Actor, name string, c pool.CredentialChange) (pool.Credential, error) {
	changed, err := o.o.Credentials.UpdateCredential(ctx, name, c)
	if err != nil {
		return pool.Credential{}, err
	}
	o.did(by, "credential updated", "credential", name)
	return changed, nil
}

// RemoveCredential forgets a credential that no pool holds.
func (o *Operations) RemoveCredential(ctx context.Context, by Actor, name string) error {
	if err := o.o.Credentials.RemoveCredential(ctx, name); err != nil {
		return err
	}
	o.did(by, "credential removed", "credential", name)
	return nil
}
