package source

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

const (
	// hashiCorpTimeout is how long Vault may take to answer, retries included.
	hashiCorpTimeout = 20 * time.Second
	// maxHashiCorpAnswer is the longest answer that is read, in bytes.
	maxHashiCorpAnswer = 1 << 20
)

// HashiCorp is where HashiCorp Vault (or OpenBao, which speaks the same) is, and what may
// be read from its KV version 2 engines.
type HashiCorp struct {
	// Address is a URL: https, or http to this host.
	Address string
	// TokenFile holds the token. It is read anew each time: Vault Agent replaces it.
	TokenFile string
	// Namespace of Vault Enterprise. Default: none.
	Namespace string
	// CA is PEM that Vault's certificate has to be signed by. Default: the system's roots.
	CA []byte
	// Mount is the path of the engine that all references are below. Default: the first
	// part of each reference.
	Mount string
	// Paths are patterns of what may be read, mount included. Default: what the token may.
	Paths []string
}

// noVault says how there could be one.
type noVault struct{}

func (noVault) fetch(context.Context, string, bool) ([]byte, error) {
	return nil, refused("no Vault is configured: set secrets.vault.address in the configuration and restart the daemon")
}

type hashiCorp struct {
	o      HashiCorp
	client *http.Client
}

func newHashiCorp(o HashiCorp) (*hashiCorp, error) {
	u, err := url.Parse(o.Address)
	if err != nil || u.Host == "" || u.User != nil || (u.Scheme != "https" && u.Scheme != "http") || strings.Trim(u.Path, "/") != "" {
		return nil, errors.New("address: is not like https://HOST:PORT")
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, errors.New("address: the token would go to another host in clear: use https")
	}
	if o.TokenFile == "" {
		return nil, errors.New("token_file: is missing")
	}
	roots := (*x509.CertPool)(nil)
	if len(o.CA) > 0 {
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(o.CA) {
			return nil, errors.New("ca_file: holds no certificate in PEM")
		}
	}
	return &hashiCorp{o: o, client: &http.Client{
		Timeout: hashiCorpTimeout,
		Transport: bounded{&http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true,
			TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			DisableKeepAlives: true, // once in a quarter of an hour
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

var errRedirect = errors.New("redirects")

// bounded cuts off answers that are longer than any secret, and takes none that leads
// elsewhere.
type bounded struct{ http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 && resp.StatusCode <= 399 {
		return nil, errors.Join(errRedirect, resp.Body.Close())
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxHashiCorpAnswer), resp.Body}
	return resp, nil
}

// reference is MOUNT/PATH[?version=N][#FIELD] taken apart.
type reference struct {
	mount, path, field string
	version            int // 0: the newest
}

// plainPath is a path that is the same wherever it is put into a URL.
var plainPath = regexp.MustCompile(`^[A-Za-z0-9._~@:+=, -]+(/[A-Za-z0-9._~@:+=, -]+)*$`)

func (h *hashiCorp) parse(ref string) (reference, error) {
	var r reference
	path, field, hasField := strings.Cut(ref, "#")
	path, query, hasQuery := strings.Cut(path, "?")
	if hasQuery {
		text, is := strings.CutPrefix(query, "version=")
		n, err := strconv.Atoi(text)
		if !is || err != nil || n < 1 {
			return r, refused("what is behind ? is not version=N")
		}
		r.version = n
	}
	if h.o.Mount != "" {
		path = h.o.Mount + "/" + path
	}
	if !plainPath.MatchString(path) || climbs(path) || hasField && (field == "" || !printable(field)) {
		return r, refused("is not like MOUNT/PATH#FIELD")
	}
	if len(h.o.Paths) > 0 && !Matches(h.o.Paths, path) {
		return r, refused("secrets.vault.paths in the configuration does not allow it: name it there and restart the daemon")
	}
	var below bool
	if r.mount = h.o.Mount; r.mount != "" {
		r.path, below = strings.CutPrefix(path, r.mount+"/")
	} else {
		r.mount, r.path, below = strings.Cut(path, "/")
	}
	if !below {
		return r, refused("is not like MOUNT/PATH#FIELD: the first part is the engine's mount, the rest the secret's path")
	}
	r.field = field
	return r, nil
}

func (h *hashiCorp) fetch(ctx context.Context, ref string, whole bool) ([]byte, error) {
	r, err := h.parse(ref)
	if err != nil {
		return nil, err
	}
	client, err := h.session()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, hashiCorpTimeout)
	defer cancel()
	var found *api.KVSecret
	if r.version > 0 {
		found, err = client.KVv2(r.mount).GetVersion(ctx, r.path, r.version)
	} else {
		found, err = client.KVv2(r.mount).Get(ctx, r.path)
	}
	if err != nil {
		return nil, h.explain(err, r)
	}
	if found.Data == nil {
		return nil, refused("Vault says that this version was deleted: write the secret anew, or 'vault kv undelete' it")
	}
	return r.pick(found.Data, whole)
}

// session is a client with the token as it is now. What VAULT_ variables say of token and
// namespace does not count.
func (h *hashiCorp) session() (*api.Client, error) {
	client, err := api.NewClient(&api.Config{
		Address: h.o.Address, HttpClient: h.client, Timeout: hashiCorpTimeout, MaxRetries: 2,
		DisableRedirects: true, // a token is not sent elsewhere
	})
	if err != nil {
		return nil, fmt.Errorf("the client for Vault cannot be made: %w", err)
	}
	token, err := read(os.OpenFile(h.o.TokenFile, openFlags, 0))
	if err != nil {
		return nil, fmt.Errorf("the token for Vault, %s: %w: secrets.vault.token_file in the configuration has to name it", h.o.TokenFile, explainFile(err))
	}
	text := strings.TrimSpace(string(token))
	clear(token)
	if text == "" || !printable(text) {
		return nil, fmt.Errorf("the token for Vault: %s holds none, or more than that", h.o.TokenFile)
	}
	client.SetToken(text)
	client.ClearNamespace()
	if h.o.Namespace != "" {
		client.SetNamespace(h.o.Namespace)
	}
	return client, nil
}

// explain is an error of the library's without what the server said: whatever stands in
// for Vault, a proxy's page, may repeat the token.
func (h *hashiCorp) explain(err error, r reference) error {
	if errors.Is(err, api.ErrSecretNotFound) {
		return h.missing(r)
	}
	if errors.Is(err, errRedirect) {
		return fmt.Errorf("the Vault at %s redirects, and the token is not sent elsewhere: set secrets.vault.address to where it leads", h.o.Address)
	}
	said, ok := errors.AsType[*api.ResponseError](err)
	if !ok {
		if failed, is := errors.AsType[*url.Error](err); is {
			return fmt.Errorf("the Vault at %s does not answer: %w", h.o.Address, failed.Err)
		}
		return fmt.Errorf("what answers at %s is not Vault's KV version 2: look at secrets.vault.address, and whether %q is such an engine", h.o.Address, r.mount)
	}
	switch said.StatusCode {
	case http.StatusForbidden:
		return fmt.Errorf("the Vault at %s refuses the token in %s: it has ended, or its policy does not let it read %s/data/%s", h.o.Address, h.o.TokenFile, r.mount, r.path)
	case http.StatusNotFound:
		return h.missing(r)
	case http.StatusServiceUnavailable:
		return fmt.Errorf("the Vault at %s is sealed or in maintenance: unseal it", h.o.Address)
	case http.StatusTooManyRequests:
		return fmt.Errorf("the Vault at %s has been asked too often", h.o.Address)
	}
	return fmt.Errorf("the Vault at %s answers with status %d", h.o.Address, said.StatusCode)
}

func (h *hashiCorp) missing(r reference) error {
	what := "no secret " + r.path
	if r.version > 0 {
		what += " of version " + strconv.Itoa(r.version)
	}
	in := fmt.Sprintf("the Vault at %s has %s in the engine %q", h.o.Address, what, r.mount)
	if h.o.Namespace != "" {
		in += " of the namespace " + h.o.Namespace
	}
	return refused("%s: write it with 'vault kv put', or correct the source", in)
}

// pick takes the field out of the secret.
func (r reference) pick(data map[string]any, whole bool) ([]byte, error) {
	names := slices.Sorted(maps.Keys(data))
	field := r.field
	switch {
	case field == "" && whole && len(names) > 1:
		return json.Marshal(data)
	case field == "" && len(names) == 1:
		field = names[0]
	case field == "":
		return nil, refused("the secret has the fields %s: name one behind #", strings.Join(names, ", "))
	}
	value, there := data[field]
	if !there {
		return nil, refused("the secret has no field %q, it has %s", field, strings.Join(names, ", "))
	}
	switch v := value.(type) {
	case string:
		return []byte(v), nil
	case json.Number:
		return []byte(v.String()), nil
	case map[string]any:
		if whole {
			return json.Marshal(v)
		}
	}
	return nil, refused("the field %q is no text", field)
}
