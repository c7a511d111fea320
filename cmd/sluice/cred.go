package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluice-proxy/sluice/control/api"
	"github.com/sluice-proxy/sluice/pool"
)

// maxSecret is the longest secret that is read, in bytes: what the daemon takes.
const maxSecret = 64 << 10

func (c *cli) credCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "cred",
		Short: "Credentials: the secrets that pools are made of",
		Long: `A credential is a static key, or an OAuth account. Its secret is read from standard input, or by the daemon from
where others keep it, never from the command line. It is kept encrypted, and is never shown again.`,
	}, c.credAddCommand(), c.credImportCommand(), c.credListCommand(), c.credUpdateCommand(), c.credRemoveCommand())
}

// credFlags are what `cred add` and `cred update` have in common.
type credFlags struct {
	kind, from, tokenURL, clientID string
	headers                        []string
}

func (f *credFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.from, "from", "",
		"`SOURCE` that the daemon reads the secret from: env:VARIABLE, file:/PATH, vault:MOUNT/PATH#FIELD or command:NAME:REF")
	cmd.Flags().StringVar(&f.tokenURL, "token-url", "", "where an oauth credential is refreshed")
	cmd.Flags().StringVar(&f.clientID, "client-id", "", "the OAuth client that the refresh token was given to")
	cmd.Flags().StringArrayVar(&f.headers, "extra-header", nil,
		"header that goes with this credential, `'Name: value'`; may be given several times")
}

func (f *credFlags) extraHeaders() (*[]api.ExtraHeader, error) {
	if len(f.headers) == 0 {
		return nil, nil
	}
	headers := make([]api.ExtraHeader, 0, len(f.headers))
	for _, header := range f.headers {
		name, value, found := strings.Cut(header, ":")
		if value = strings.TrimSpace(value); !found || name == "" || value == "" {
			return nil, usageError{"--extra-header: not of the form 'Name: value'"}
		}
		headers = append(headers, api.ExtraHeader{Name: name, Value: value})
	}
	return &headers, nil
}

func (c *cli) credAddCommand() *cobra.Command {
	var flags credFlags
	cmd := &cobra.Command{
		Use:   "add NAME [--type static|oauth] < SECRET | --from SOURCE",
		Short: "Store a credential, its secret from standard input or from where others keep it",
		Long: `Stores a credential. The secret is read from standard input; on a terminal it is asked for and not echoed. One
line break at its end is dropped.

For --type oauth the secret is a JSON object with "access_token", "refresh_token" and "expires_at" (RFC 3339).

With --from the daemon reads it where somebody else keeps it, as far as [secrets] in its configuration allows: a
variable of the daemon's, a file, HashiCorp Vault, or a command such as 1Password's or Bitwarden's. It is read again when
the daemon starts, every quarter of an hour, and when it is refused; meanwhile, what was read last is kept encrypted.`,
		Example: `  sluice cred add work < key.txt
  pass show openai/spare | sluice cred add spare
  sluice cred add vaulted --from vault:secret/agents/openai#key
  sluice cred add account --type oauth --token-url https://auth.example.com/oauth/token --client-id app < account.json`,
		Args: arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind := api.CredentialType(flags.kind)
			if !kind.Valid() {
				return usageError{fmt.Sprintf("--type %s: there is only static and oauth", flags.kind)}
			}
			headers, err := flags.extraHeaders()
			if err != nil {
				return err
			}
			spec := api.CredentialSpec{
				Name: args[0], Type: &kind, ExtraHeaders: headers,
				TokenUrl: optional(flags.tokenURL), ClientId: optional(flags.clientID),
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			if spec.Source = optional(flags.from); spec.Source == nil {
				if terminal(c.stdin) { // nobody is to type in vain
					if _, err := client.Credentials(cmd.Context()); err != nil {
						return err
					}
				}
				if spec.Secret, spec.Oauth, err = c.secret(kind); err != nil {
					return err
				}
			}
			made, err := client.AddCredential(cmd.Context(), spec)
			if err != nil {
				return fmt.Errorf("add credential %q: %w", spec.Name, err)
			}
			return c.done(made, made.Name)
		},
	}
	cmd.Flags().StringVar(&flags.kind, "type", string(api.Static), "static or oauth")
	oneOf(cmd, "type", string(api.Static), string(api.Oauth))
	flags.register(cmd)
	return cmd
}

func (c *cli) credUpdateCommand() *cobra.Command {
	var flags credFlags
	var keep bool
	cmd := &cobra.Command{
		Use:   "update NAME < SECRET",
		Short: "Replace a credential's secret, from standard input",
		Long: `Replaces the secret of a credential, and whatever else is given. Requests that come after it carry the new one;
pools and their order stay as they are. With --keep-secret standard input is not read and only the flags count.

A credential that was added with --from is read again from its source instead. --from says another source; --from ''
takes the secret from standard input from now on.`,
		Args: arguments("NAME"), ValidArgsFunction: c.complete(c.credentialNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			headers, err := flags.extraHeaders()
			if err != nil {
				return err
			}
			if keep && headers == nil && flags.tokenURL == "" && flags.clientID == "" {
				return usageError{"sluice cred update --keep-secret needs --token-url, --client-id or --extra-header: nothing else is left to change"}
			}
			if keep && flags.from != "" {
				return usageError{"sluice cred update --from reads the secret: --keep-secret does not go with it"}
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			change := api.CredentialChange{
				ExtraHeaders: headers, TokenUrl: optional(flags.tokenURL), ClientId: optional(flags.clientID),
			}
			if !keep {
				now, err := credentialOf(cmd, client, args[0])
				if err != nil {
					return err
				}
				from := flags.from
				if !cmd.Flags().Changed("from") {
					from = now.Source
				}
				if change.Source = optional(from); change.Source == nil {
					if change.Secret, change.Oauth, err = c.secret(now.Type); err != nil {
						return err
					}
				}
			}
			changed, err := client.UpdateCredential(cmd.Context(), args[0], change)
			if err != nil {
				return fmt.Errorf("update credential %q: %w", args[0], err)
			}
			return c.done(changed, changed.Name)
		},
	}
	cmd.Flags().BoolVar(&keep, "keep-secret", false, "change only what the other flags say")
	flags.register(cmd)
	return cmd
}

// credentialOf asks what kind of secret belongs to the name, and where it is from.
func credentialOf(cmd *cobra.Command, client *api.Client, name string) (api.Credential, error) {
	credentials, err := client.Credentials(cmd.Context())
	if err != nil {
		return api.Credential{}, err
	}
	var known []string
	for _, credential := range credentials {
		if credential.Name == name {
			return credential, nil
		}
		known = append(known, credential.Name)
	}
	return api.Credential{}, pool.NoCredential(name).Near(known)
}

func (c *cli) credListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the credentials, without their secrets", Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			credentials, err := client.Credentials(cmd.Context())
			if err != nil {
				return err
			}
			return c.print(credentials, func() {
				rows := make([][]any, 0, len(credentials))
				for _, credential := range credentials {
					rows = append(rows, []any{
						credential.Name, string(credential.Type), dash(credential.Pool),
						c.moment(credential.ExpiresAt), list(credential.ExtraHeaders), dash(credential.Source),
					})
				}
				c.table("there is no credential: 'sluice cred add' stores one",
					[]any{"name", "type", "pool", "expires", "extra headers", "from"}, rows)
				for _, credential := range credentials {
					if credential.SourceError != "" {
						fmt.Fprintf(c.stderr, "%s goes on with what was read last: %s\n", credential.Name, credential.SourceError)
					}
				}
			})
		},
	}
}

func (c *cli) credRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Aliases: []string{"rm"}, Short: "Forget a credential that no pool holds",
		Args: arguments("NAME"), ValidArgsFunction: c.complete(c.credentialNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			if err := client.RemoveCredential(cmd.Context(), args[0]); err != nil {
				return err
			}
			return c.removed("name", args[0])
		},
	}
}

// secret reads a secret of the given kind from standard input.
func (c *cli) secret(kind api.CredentialType) (key *string, account *api.OAuthTokens, err error) {
	raw, err := c.readSecret(kind)
	if err != nil {
		return nil, nil, err
	}
	if kind == api.Oauth {
		account, err = parseAccount(raw)
		return nil, account, err
	}
	text := string(raw)
	return &text, nil, nil
}

// readSecret asks on a terminal, without echo, and reads everything otherwise.
func (c *cli) readSecret(kind api.CredentialType) ([]byte, error) {
	var raw []byte
	var err error
	if terminal(c.stdin) {
		raw, err = c.askSecret(int(c.stdin.(*os.File).Fd()), kind)
	} else {
		raw, err = io.ReadAll(io.LimitReader(c.stdin, maxSecret+1))
	}
	if err != nil {
		return nil, fmt.Errorf("secret: cannot be read from standard input: %w", err)
	}
	raw = bytes.TrimSuffix(bytes.TrimSuffix(raw, []byte("\n")), []byte("\r"))
	switch {
	case len(bytes.TrimSpace(raw)) == 0:
		return nil, errors.New("secret: standard input is empty: pipe the secret in, as in 'sluice cred add NAME < FILE'")
	case len(raw) > maxSecret:
		return nil, fmt.Errorf("secret: longer than %d bytes: is this the right file?", maxSecret)
	}
	return raw, nil
}

// parseAccount reads an OAuth account. Its errors name fields, not what is in them.
func parseAccount(raw []byte) (*api.OAuthTokens, error) {
	t, err := pool.ParseTokens(raw)
	if err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	return &api.OAuthTokens{
		AccessToken: string(t.AccessToken.Bytes()), RefreshToken: string(t.RefreshToken.Bytes()), ExpiresAt: t.ExpiresAt,
	}, nil
}
