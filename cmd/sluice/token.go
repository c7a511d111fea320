package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluice-proxy/sluice/control/api"
)

func (c *cli) tokenCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "token NAME",
		Short: "Make a bearer token for the API over TCP",
		Long: `Makes a bearer token for the API over TCP (listen in the [api] part of the configuration) and prints it, once. The
file keeps only a hash of it, which is enough to know it by. NAME is who did something with it in the log of events.
A token is revoked by taking its line out of the file; that, and a new one, need no restart.`,
		Example: `  (umask 077; sudo sluice token laptop > laptop.token)
  echo "Authorization: Bearer $(cat laptop.token)" | curl -H @- https://sluice.example:7734/api/pools
  SLUICE_URL=https://sluice.example:7734 SLUICE_TOKEN_FILE=laptop.token sluice pool list`,
		Args: arguments("NAME"),
		RunE: func(_ *cobra.Command, args []string) error {
			token, err := api.AddToken(file, args[0])
			if errors.Is(err, os.ErrPermission) {
				return fmt.Errorf("%w: use sudo, or another --file", err)
			}
			if err != nil {
				return err
			}
			return c.print(map[string]string{"name": args[0], "token": token}, func() { fmt.Fprintln(c.stdout, token) })
		},
	}
	cmd.Flags().StringVar(&file, "file", defaultTokenFile, "where the hash goes: token_file of the configuration")
	return cmd
}

// client asks the daemon on the socket; or at SLUICE_URL, unless --socket is given. Its connection ends with the command.
func (c *cli) client() (*api.Client, error) {
	client, err := c.dial()
	if err == nil {
		context.AfterFunc(c.ctx, client.Close)
	}
	return client, err
}

func (c *cli) dial() (*api.Client, error) {
	address := c.getenv("SLUICE_URL")
	if address == "" || c.socket != "" {
		return api.Dial(c.socketPath())
	}
	file := c.getenv("SLUICE_TOKEN_FILE")
	if file == "" {
		return nil, errors.New("SLUICE_URL is set, and SLUICE_TOKEN_FILE is not: it names a file with a token that 'sluice token' made")
	}
	token, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("SLUICE_TOKEN_FILE: %w", err)
	}
	if len(strings.Fields(string(token))) != 1 {
		return nil, fmt.Errorf("SLUICE_TOKEN_FILE: %s holds no token, or more than one: 'sluice token' prints what belongs there", file)
	}
	var roots *x509.CertPool
	if file := c.getenv("SLUICE_CA_FILE"); file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("SLUICE_CA_FILE: %w", err)
		}
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("SLUICE_CA_FILE: there is no PEM certificate in %s", file)
		}
	}
	return api.DialURL(address, strings.TrimSpace(string(token)), roots)
}
