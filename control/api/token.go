package api

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/pool"
)

const (
	// tokenPrefix makes a token known for what it is where it was left lying about.
	tokenPrefix = "sluice_"
	// tokenBytes of randomness need no slow hash: nobody guesses them, and what is
	// stored of them is as good as nothing.
	tokenBytes = 32
	hashPrefix = "sha256:"
)

// AddToken makes a bearer token and appends what it is known by to the file: a
// line "NAME sha256:HEX". The token itself is in no file; it is returned once. A
// file that is not there is made, for its owner alone.
func AddToken(file, name string) (token string, err error) {
	if err := pool.ValidName("name", name); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	f, err := os.OpenFile(file, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// Of two at a time one would not see the other's name.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("token file: lock %s: %w", file, err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	known, err := parseTokens(text)
	if err != nil {
		return "", fmt.Errorf("token file %s: %w", file, err)
	}
	for _, k := range known {
		if k.name == name {
			return "", pool.Conflict("name: %s has a token %q already: remove its line to revoke it, or choose another name", file, name)
		}
	}
	random := make([]byte, tokenBytes)
	if _, err := rand.Read(random); err != nil {
		return "", err
	}
	token = tokenPrefix + hex.EncodeToString(random)
	sum := sha256.Sum256([]byte(token))
	line := fmt.Sprintf("%s %s%s\n", name, hashPrefix, hex.EncodeToString(sum[:]))
	if len(text) > 0 && text[len(text)-1] != '\n' {
		line = "\n" + line
	}
	if _, err = f.WriteString(line); err == nil {
		err = f.Sync()
	}
	if err != nil {
		// Half a line would have the file let nobody in.
		return "", fmt.Errorf("token file: %w", errors.Join(err, f.Truncate(int64(len(text)))))
	}
	return token, nil
}

// Tokens are the bearer tokens that count: those whose hashes are in a file. The
// file is read again when it changes, so that a line that is gone counts no more
// from then on. Its methods may be called concurrently.
type Tokens struct {
	file string

	mu    sync.Mutex
	known []knownToken
	mark  fileMark
}

type knownToken struct {
	name string
	sum  [sha256.Size]byte
}

// fileMark changes when a file does.
type fileMark struct {
	modified time.Time
	size     int64
	info     fs.FileInfo
}

// OpenTokens reads a file that AddToken has written. It must not be accessible to
// anybody but its owner, and hold a token.
func OpenTokens(file string) (*Tokens, error) {
	t := &Tokens{file: file}
	if err := t.load(); err != nil {
		return nil, err
	}
	if len(t.known) == 0 {
		return nil, fmt.Errorf("token file %s holds no token: make one with 'sluice token NAME'", file)
	}
	return t, nil
}

func (t *Tokens) load() error {
	info, err := os.Stat(t.file)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("token file %s is not there: make it with 'sluice token NAME --file %s'", t.file, t.file)
	}
	if err != nil {
		return fmt.Errorf("token file: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("token file %s has mode %04o, so that others may get at it: use 'chmod 600 %s'", t.file, mode, t.file)
	}
	if t.mark.info != nil && os.SameFile(info, t.mark.info) && info.Size() == t.mark.size && info.ModTime().Equal(t.mark.modified) {
		return nil
	}
	text, err := os.ReadFile(t.file)
	if err != nil {
		return fmt.Errorf("token file: %w", err)
	}
	known, err := parseTokens(text)
	if err != nil {
		return fmt.Errorf("token file %s: %w", t.file, err)
	}
	t.known, t.mark = known, fileMark{info.ModTime(), info.Size(), info}
	return nil
}

func parseTokens(text []byte) ([]knownToken, error) {
	var all []knownToken
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, hash, _ := strings.Cut(line, " ")
		sum, err := hex.DecodeString(strings.TrimPrefix(strings.TrimSpace(hash), hashPrefix))
		if err != nil || len(sum) != sha256.Size || !strings.HasPrefix(strings.TrimSpace(hash), hashPrefix) || pool.ValidName("name", name) != nil {
			return nil, fmt.Errorf("line %d is not \"NAME sha256:HEX\"", n)
		}
		all = append(all, knownToken{name, [sha256.Size]byte(sum)})
	}
	if lines.Err() != nil {
		return nil, errors.New("a line is too long for a token's hash: is this the right file?")
	}
	return all, nil
}

// name is whose token it is; "" if it is nobody's. The time it takes does not tell
// how much of a token is right, nor whose it nearly is. A file that cannot be
// read lets nobody in.
func (t *Tokens) name(token string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.load(); err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(token))
	found := ""
	for _, k := range t.known {
		if subtle.ConstantTimeCompare(sum[:], k.sum[:]) == 1 {
			found = k.name
		}
	}
	return found, nil
}
