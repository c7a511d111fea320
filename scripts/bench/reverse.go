package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"time"

	"github.com/sluice-proxy/sluice/scripts/sandbox"
)

// reverseRole makes this program the net/http contestant.
const reverseRole = "reverse"

// reverse is a plain httputil.ReverseProxy that ends TLS and sets the header.
func reverse(args []string) error {
	flags := flag.NewFlagSet(reverseRole, flag.ContinueOnError)
	listen := flags.String("listen", "", "address to listen on")
	to := flags.String("to", "", "address of the upstream")
	cert := flags.String("cert", "", "certificate and key (PEM)")
	roots := flags.String("roots", "", "CA of the upstream (PEM)")
	key := flags.String("key", "", "key to set")
	if err := flags.Parse(args); err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(*cert, *cert)
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(*roots)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s: no certificate", *roots)
	}
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: upstreamHost, NextProtos: []string{"http/1.1"}},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, *to)
		},
		MaxIdleConns: 1024, MaxIdleConnsPerHost: 1024, IdleConnTimeout: time.Minute, DisableCompression: true,
	}
	target, authorization := &url.URL{Scheme: "https", Host: upstreamHost}, "Bearer "+*key
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Header.Set("Authorization", authorization)
		},
	}
	server := &http.Server{
		Addr: *listen, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}},
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          log.New(os.Stderr, "reverse: ", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			// The transport may still be looking for the end of the request's body when the answer
			// begins. Without this the server has closed that body by then, and the exchange fails.
			_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/2 knows nothing else
			proxy.ServeHTTP(w, r)
		}),
	}
	ctx, stop := sandbox.Signals()
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServeTLS("", "") }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = server.Close()
		<-ended
	}
	transport.CloseIdleConnections()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
