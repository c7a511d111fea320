package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// Client asks a daemon. Its errors are *[pool.Error], with the code that the
// operation gave, or *[UnreachableError]. Its methods may be called concurrently.
type Client struct {
	raw  *generatedClient
	http *http.Client
}

// UnreachableError says that no daemon answers on a socket.
type UnreachableError struct {
	Socket string // or the address over TCP
	// Remote says that it is an address over TCP: whether a daemon runs there cannot
	// be told from here.
	Remote bool
	// Pending says that it was asked for a change, and may make that when it goes on.
	Pending bool
	Err     error // context.DeadlineExceeded: it was not waited for any longer
}

// Error names the socket and the cause, and where it can be, the way out.
func (e *UnreachableError) Error() string {
	pending := ""
	if e.Pending {
		pending = ", and may yet do what it was asked"
	}
	var uncertified *tls.CertificateVerificationError
	switch {
	case e.NotRunning():
		return fmt.Sprintf("no daemon answers on %s: start one with 'sudo sluice serve' or 'sudo systemctl start sluice'", e.Socket)
	case errors.Is(e.Err, fs.ErrPermission) && !e.Remote:
		return fmt.Sprintf("no permission to use %s: use sudo, or join the group sluice", e.Socket)
	case errors.Is(e.Err, syscall.EINVAL) && !e.Remote: // connect(2)
		return fmt.Sprintf("%s is too long for the path of a socket (unix(7)): choose another", e.Socket)
	case errors.Is(e.Err, context.DeadlineExceeded) && e.Remote:
		return fmt.Sprintf("the daemon on %s does not answer: it was stopped, hangs, or cannot be reached from here%s: see that this is its address, and look at its log", e.Socket, pending)
	case errors.Is(e.Err, context.DeadlineExceeded), errors.Is(e.Err, syscall.EAGAIN): // nor does it take connections any more
		return fmt.Sprintf("the daemon on %s does not answer: it was stopped, or hangs%s: look at its log, and restart it", e.Socket, pending)
	case errors.Is(e.Err, io.EOF), errors.Is(e.Err, io.ErrUnexpectedEOF), errors.Is(e.Err, syscall.ECONNRESET), errors.Is(e.Err, syscall.EPIPE):
		return fmt.Sprintf("the daemon on %s broke off before it had answered: it was stopped, or restarted: look at its log", e.Socket)
	case errors.As(e.Err, &uncertified):
		return fmt.Sprintf("what answers on %s may be another: %s: SLUICE_CA_FILE names a file with the certificate that signed it", e.Socket, uncertified.Err)
	}
	return fmt.Sprintf("the daemon on %s does not answer: %s", e.Socket, innermost(e.Err))
}

// innermost is an error without what Go has put before it, such as "dial unix PATH: connect".
func innermost(err error) error {
	var number syscall.Errno
	if errors.As(err, &number) {
		return number
	}
	return err
}

// Unwrap is for [errors.Is].
func (e *UnreachableError) Unwrap() error { return e.Err }

// NotRunning says that there is no daemon, rather than one that cannot be asked.
func (e *UnreachableError) NotRunning() bool {
	return !e.Remote && (errors.Is(e.Err, fs.ErrNotExist) || errors.Is(e.Err, syscall.ECONNREFUSED))
}

// Dial makes a client of the daemon that listens on the unix socket. It does
// not connect yet.
func Dial(socket string) (*Client, error) {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		MaxIdleConns: 1, IdleConnTimeout: 10 * time.Second,
	}
	c := &Client{http: &http.Client{Transport: &attended{transport, UnreachableError{Socket: socket}, silence}}}
	raw, err := NewClient("http://sluice", WithHTTPClient(c.http))
	if err != nil {
		return nil, err
	}
	c.raw = raw
	return c, nil
}

// DialURL makes a client of the daemon that serves TCP at an address such as
// "https://sluice.example:7734", with a bearer token. Roots are what its certificate
// may be signed by; nil is the system's. It does not connect yet. The token does not
// go to another host, nor over the wire in clear.
func DialURL(address, token string, roots *x509.CertPool) (*Client, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || strings.Trim(u.Path, "/") != "" {
		return nil, invalid("url: %q is not like https://HOST:PORT", address)
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, invalid("url: the token would go to %s in clear: use https", u.Host)
	}
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		MaxIdleConns:    1, IdleConnTimeout: 10 * time.Second,
	}
	c := &Client{http: &http.Client{
		Transport:     &attended{transport, UnreachableError{Socket: address, Remote: true}, silence},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	c.raw, err = NewClient(u.Scheme+"://"+u.Host, WithHTTPClient(c.http), WithRequestEditorFn(
		func(_ context.Context, r *http.Request) error {
			r.Header.Set("Authorization", "Bearer "+token)
			return nil
		}))
	return c, err
}

// Close drops the connection, if there is one.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// receive turns an answer into a value, or into the error that it stands for.
func receive[T any](r *http.Response, err error) (T, error) {
	var value T
	body, err := received(r, err)
	if err != nil || len(body) == 0 {
		return value, err
	}
	if err := json.Unmarshal(body, &value); err != nil {
		return value, restore(r.StatusCode, nil)
	}
	return value, nil
}

func received(r *http.Response, err error) ([]byte, error) {
	if err != nil {
		return nil, reached(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, reached(err)
	}
	if r.StatusCode >= 400 {
		return nil, restore(r.StatusCode, body)
	}
	return body, nil
}

// reached takes off what net/http puts around an error.
func reached(err error) error {
	var around *url.Error
	if errors.As(err, &around) {
		return around.Err
	}
	return err
}

// Status says what the daemon is doing.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return receive[Status](c.raw.GetStatus(ctx))
}

// CA gives the certificates that an agent has to trust, as PEM.
func (c *Client) CA(ctx context.Context) ([]byte, error) { return received(c.raw.GetCA(ctx)) }

// Pools lists the pools by name.
func (c *Client) Pools(ctx context.Context) ([]Pool, error) {
	return receive[[]Pool](c.raw.ListPools(ctx))
}

// CreatePool creates a pool.
func (c *Client) CreatePool(ctx context.Context, spec PoolSpec) (Pool, error) {
	return receive[Pool](c.raw.CreatePool(ctx, spec))
}

// Pool gives a pool with the state of each member.
func (c *Client) Pool(ctx context.Context, name string) (PoolStatus, error) {
	return receive[PoolStatus](c.raw.GetPool(ctx, name))
}

// RemovePool removes a pool.
func (c *Client) RemovePool(ctx context.Context, name string) error {
	_, err := received(c.raw.RemovePool(ctx, name, nil))
	return err
}

// LeftBy are the targets that a pool served which is gone, and that no other pool does.
func (c *Client) LeftBy(ctx context.Context, pool string) ([]Target, error) {
	targets, err := c.Targets(ctx)
	if err != nil {
		return nil, err
	}
	left := []Target{}
	for _, t := range targets {
		if t.Unserved && (len(t.Pools) == 0 || slices.Contains(t.Pools, pool)) {
			left = append(left, t)
		}
	}
	return left, nil
}

// RotatePool makes the next member active.
func (c *Client) RotatePool(ctx context.Context, name string) (PoolStatus, error) {
	return receive[PoolStatus](c.raw.RotatePool(ctx, name, nil))
}

// ClearPool lifts the cooldown of a member, or of all if member is empty.
func (c *Client) ClearPool(ctx context.Context, name, member string) (PoolStatus, error) {
	var spec ClearSpec
	if member != "" {
		spec.Member = &member
	}
	return receive[PoolStatus](c.raw.ClearPool(ctx, name, nil, spec))
}

// AddMember adds a credential to a pool.
func (c *Client) AddMember(ctx context.Context, name, credential string) (PoolStatus, error) {
	return receive[PoolStatus](c.raw.AddMember(ctx, name, credential, nil))
}

// RemoveMember takes a credential out of a pool.
func (c *Client) RemoveMember(ctx context.Context, name, credential string) (PoolStatus, error) {
	return receive[PoolStatus](c.raw.RemoveMember(ctx, name, credential, nil))
}

// Credentials lists the credentials by name.
func (c *Client) Credentials(ctx context.Context) ([]Credential, error) {
	return receive[[]Credential](c.raw.ListCredentials(ctx))
}

// AddCredential stores a credential.
func (c *Client) AddCredential(ctx context.Context, spec CredentialSpec) (Credential, error) {
	return receive[Credential](c.raw.AddCredential(ctx, spec))
}

// UpdateCredential changes what is given of a credential.
func (c *Client) UpdateCredential(ctx context.Context, name string, change CredentialChange) (Credential, error) {
	return receive[Credential](c.raw.UpdateCredential(ctx, name, change))
}

// RemoveCredential forgets a credential.
func (c *Client) RemoveCredential(ctx context.Context, name string) error {
	_, err := received(c.raw.RemoveCredential(ctx, name))
	return err
}

// SetAuthResetTarget says what the auth of a pool's agents is reset for; "" is nothing.
func (c *Client) SetAuthResetTarget(ctx context.Context, name, target string) (PoolStatus, error) {
	return receive[PoolStatus](c.raw.SetAuthResetTarget(ctx, name, nil, AuthResetTargetSpec{Target: target}))
}

// ResetAgents resets a pool's agents, or says what would be run.
func (c *Client) ResetAgents(ctx context.Context, name string, dryRun bool) (ResetReport, error) {
	return receive[ResetReport](c.raw.ResetAgent(ctx, name, ResetSpec{DryRun: &dryRun}))
}

// Targets lists the targets.
func (c *Client) Targets(ctx context.Context) ([]Target, error) {
	return receive[[]Target](c.raw.ListTargets(ctx))
}

// Attach attaches a cgroup.
func (c *Client) Attach(ctx context.Context, spec TargetSpec) (AttachedTarget, error) {
	return receive[AttachedTarget](c.raw.AttachTarget(ctx, spec))
}

// Detach detaches a target.
func (c *Client) Detach(ctx context.Context, id string) error {
	_, err := received(c.raw.DetachTarget(ctx, id))
	return err
}

// DetachAll detaches every target and says which ones there were.
func (c *Client) DetachAll(ctx context.Context) ([]Target, error) {
	return receive[[]Target](c.raw.DetachAllTargets(ctx))
}

// Events lists the last n events, oldest first.
func (c *Client) Events(ctx context.Context, n int) ([]Event, error) {
	return receive[[]Event](c.raw.ListEvents(ctx, &ListEventsParams{Limit: &n}))
}

// Follow calls each with every event that has a seq above after, those that were and those
// that come, until ctx ends (which is no error), each fails or the daemon stops. Before
// that it calls opened, once the daemon has begun to answer.
func (c *Client) Follow(ctx context.Context, after int64, opened func(), each func(Event) error) error {
	answer, err := c.raw.ListEvents(ctx, &ListEventsParams{After: &after},
		func(_ context.Context, r *http.Request) error {
			r.Header.Set("Accept", "text/event-stream")
			return nil
		})
	if err != nil {
		return ended(ctx, reached(err))
	}
	defer answer.Body.Close()
	if answer.StatusCode >= 400 {
		_, err := received(answer, nil)
		return err
	}
	opened()
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		if !ok {
			continue
		}
		var event Event
		if err := json.Unmarshal(data, &event); err != nil {
			return fmt.Errorf("event stream: %w", err)
		}
		if err := each(event); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return ended(ctx, err)
	}
	return ended(ctx, &pool.Error{Code: pool.CodeUnavailable, Message: "event stream: the daemon ended it"})
}

func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
