package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/pool/vault"
)

// files are the directories below which files may be read.
type files []string

func (f files) fetch(_ context.Context, ref string, _ bool) ([]byte, error) {
	if !filepath.IsAbs(ref) || filepath.Clean(ref) != ref || !printable(ref) {
		return nil, refused("is not an absolute path without . and ..")
	}
	// systemd puts it beside other credentials, and it opens all of them.
	if filepath.Base(ref) == vault.CredentialName {
		return nil, refused("is the vault's identity, which is nobody's credential")
	}
	for _, dir := range f {
		if name, below := strings.CutPrefix(ref, dir+"/"); below {
			return readBelow(dir, name)
		}
	}
	return nil, refused("is below none of the directories that the daemon may read secrets from: " +
		"put it below one, or name its directory in secrets.files in the configuration and restart the daemon")
}

// readBelow reads a file that no symbolic link leads out of the directory for: who may
// write there must not get at other files of root's.
func readBelow(dir, name string) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, explainFile(err)
	}
	defer func() { _ = root.Close() }()
	text, err := read(root.OpenFile(name, openFlags, 0))
	if err != nil {
		return nil, explainFile(err)
	}
	return text, nil
}

// openFlags are those with which a named pipe in a file's place is not waited for.
const openFlags = os.O_RDONLY | unix.O_NONBLOCK

// read takes a regular file that was opened, at most a byte more than [MaxSecret].
func read(file *os.File, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, refused("is not a regular file")
	}
	// One buffer: growing ones would leave pieces of a secret behind.
	text := make([]byte, MaxSecret+1)
	n, err := io.ReadFull(file, text)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		clear(text)
		return nil, err
	}
	return text[:n], nil
}

// explainFile leaves out the path, which is said already.
func explainFile(err error) error {
	if _, is := errors.AsType[*refusal](err); is {
		return err
	}
	what := err
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		what = path.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("there is no such file: put it there")
	case what.Error() == "path escapes from parent": // os has no exported error for it
		return refused("a symbolic link leads out of the directory that secrets.files names: put the file itself there")
	}
	return fmt.Errorf("cannot be read: %w", what)
}
