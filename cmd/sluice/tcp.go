package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"

	"github.com/sluice-proxy/sluice/control/api"
)

const defaultTokenFile = "/etc/sluice/api.tokens"

// apiConfig is where the API is served besides the socket.
type apiConfig struct {
	Listen    string // HOST:PORT; empty: nowhere
	TLSCert   string // file; empty: no TLS
	TLSKey    string
	TokenFile string
}

type rawAPI struct {
	Listen    *string `toml:"listen"`
	TLSCert   *string `toml:"tls_cert"`
	TLSKey    *string `toml:"tls_key"`
	TokenFile *string `toml:"token_file"`
}

// check gives the keys their defaults. An error names the key.
func (raw rawAPI) check() (apiConfig, error) {
	c := apiConfig{TokenFile: defaultTokenFile}
	for _, key := range []struct{ from, into *string }{
		{raw.Listen, &c.Listen}, {raw.TLSCert, &c.TLSCert}, {raw.TLSKey, &c.TLSKey},
	} {
		if key.from != nil {
			*key.into = *key.from
		}
	}
	if err := absolute("api.token_file", raw.TokenFile, &c.TokenFile); err != nil {
		return c, err
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return c, errors.New("api.tls_cert: it and tls_key go together")
	}
	if c.Listen == "" {
		return c, nil
	}
	host, port, err := net.SplitHostPort(c.Listen)
	if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || n == 0 {
		return c, fmt.Errorf("api.listen: %q is not HOST:PORT", c.Listen)
	}
	if ip := net.ParseIP(host); c.TLSCert == "" && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return c, fmt.Errorf("api.listen: %q can be reached from elsewhere: set tls_cert and tls_key, or listen on 127.0.0.1", c.Listen)
	}
	return c, nil
}

// tcpAPI is the API's listener on TCP.
type tcpAPI struct {
	listener net.Listener
	options  api.TCPOptions
	pair     atomic.Pointer[tls.Certificate] // what is shown from now on; unused without TLS
}

// openTCP listens, if that is configured. What would keep anybody out is said now.
func (d *sluiced) openTCP(ctx context.Context) error {
	c := d.cfg.API
	if c.Listen == "" {
		return nil
	}
	t := &tcpAPI{}
	var err error
	if t.options.Tokens, err = api.OpenTokens(c.TokenFile); err != nil {
		return fmt.Errorf("api: %w", err)
	}
	if c.TLSCert != "" {
		pair, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
		if err != nil {
			return fmt.Errorf("api.tls_cert: %w", err)
		}
		t.pair.Store(&pair)
		t.options.TLS = &tls.Config{
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return t.pair.Load(), nil },
			MinVersion:     tls.VersionTLS12,
		}
	}
	if t.listener, err = new(net.ListenConfig).Listen(ctx, "tcp", c.Listen); err != nil {
		return fmt.Errorf("api.listen: %w", err)
	}
	d.acquired(func() error {
		if err := t.listener.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	d.tcp = t
	return nil
}

// serveTCP answers there until ctx ends.
func (d *sluiced) serveTCP(ctx context.Context) error {
	if d.tcp == nil {
		return nil
	}
	d.log.Info("listening", "address", d.tcp.listener.Addr().String(), "tls", d.tcp.options.TLS != nil)
	return d.api.ServeTCP(ctx, d.tcp.listener, d.tcp.options, apiGrace)
}
