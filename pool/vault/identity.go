package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"filippo.io/age"
	"golang.org/x/sys/unix"
)

// CredentialName is the name under which systemd hands over the identity
// (systemd.exec(5), LoadCredential= and LoadCredentialEncrypted=).
const CredentialName = "sluice.identity"

// maxIdentity is far more than an identity and the comments that age-keygen writes, in bytes.
const maxIdentity = 16 << 10

var (
	// ErrIdentity means that a secret was not encrypted for this vault's identity.
	ErrIdentity = errors.New("the vault's identity does not open this secret")
	// ErrNoIdentity means that secrets are sealed and there is no identity to open them.
	ErrNoIdentity = errors.New("the vault's identity is missing")
)

// Options of [Open]. File is required.
type Options struct {
	// File holds the identity, mode 0600. It is made if it is missing, nothing is
	// sealed, and systemd has no identity to give.
	File string
	// CredentialDir is where systemd puts what it hands over, $CREDENTIALS_DIRECTORY.
	// An identity in it wins over File. Default: none.
	CredentialDir string
	// Given says that the identity is systemd's, although CredentialDir is not at hand:
	// that directory is seen by the unit alone. Default: it is not.
	Given bool
	// Sealed is everything that was encrypted: an identity that does not open all of it
	// is refused.
	Sealed []Sealed
}

// Sealed is an encrypted secret and what it is called.
type Sealed struct {
	Name string
	Data []byte
}

// Open finds the identity, or makes one if nothing is lost by that. With an error
// nothing was changed, on disk or elsewhere.
//
// Errors: [ErrIdentity], [ErrNoIdentity].
func Open(opts Options) (*Vault, error) {
	v, err := find(opts)
	if errors.Is(err, fs.ErrNotExist) {
		if len(opts.Sealed) == 0 {
			return create(opts.File)
		}
		return nil, missing(opts)
	}
	if err != nil {
		return nil, err
	}
	return v, nil
}

// missing says what can be done without an identity: nothing but to find it, or to
// begin again.
func missing(opts Options) error {
	where := opts.File
	if opts.CredentialDir != "" {
		where += " and no " + filepath.Join(opts.CredentialDir, CredentialName)
	}
	return fmt.Errorf("%w: there is no %s, and credentials are sealed for it (%d): restore it from a backup (mode 0600); "+
		"if it is lost, move the state directory away and add the credentials again", ErrNoIdentity, where, len(opts.Sealed))
}

// find reads the identity, which must open everything. Error: [fs.ErrNotExist].
func find(opts Options) (*Vault, error) {
	if opts.CredentialDir != "" {
		path := filepath.Join(opts.CredentialDir, CredentialName)
		identity, err := read(path, false)
		if err == nil {
			v := &Vault{identity: identity, path: path, given: true}
			return v, v.opens(opts.Sealed)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return fromFile(opts)
}

// read parses the identity at path. A private file must be its reader's alone; what
// systemd hands over is in a directory that is, and has a mode of systemd's choice.
func read(path string, private bool) (*age.X25519Identity, error) {
	// Without O_NONBLOCK, a named pipe in its place would be waited for.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("read the vault's identity: %w", err)
	}
	defer func() { _ = f.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("read the vault's identity: %w", err)
	}
	switch mode := st.Mode & 0o777; {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, fmt.Errorf("the vault's identity %s is not a regular file: put the identity itself there", path)
	case private && mode&0o077 != 0:
		return nil, fmt.Errorf("the vault's identity %s may be read by others (mode %04o): run 'chmod 600 %s'; "+
			"if one of them may have done so, 'sluice vault rekey' afterwards makes it worthless", path, mode, path)
	case private && st.Uid != uint32(os.Geteuid()):
		return nil, fmt.Errorf("the vault's identity %s belongs to uid %d, who may read it: run 'chown %d %s'", path, st.Uid, os.Geteuid(), path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxIdentity))
	if err != nil {
		return nil, fmt.Errorf("read the vault's identity: %w", err)
	}
	defer clear(text)
	// The parser's error may quote a part of the line.
	identities, err := age.ParseIdentities(bytes.NewReader(text))
	if err == nil && len(identities) == 1 {
		if identity, ok := identities[0].(*age.X25519Identity); ok {
			return identity, nil
		}
	}
	return nil, fmt.Errorf("%s is not an age identity (one line, AGE-SECRET-KEY-1...): restore it from a backup; "+
		"without it the sealed secrets cannot be read", path)
}

func create(path string) (_ *Vault, err error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("make the vault's identity: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".identity-") // 0600
	if err != nil {
		return nil, fmt.Errorf("make the vault's identity: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make the vault's identity: %w", err), f.Close(), os.Remove(f.Name()))
		}
	}()
	if _, err := io.WriteString(f, identity.String()+"\n"); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	// Link, unlike rename, never replaces an identity that appeared meanwhile.
	if err := os.Link(f.Name(), path); err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	// A power cut must not take the name of the file and leave what was encrypted for it.
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	return &Vault{identity: identity, path: path}, f.Close()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
