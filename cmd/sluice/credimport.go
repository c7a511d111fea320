package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluice-proxy/sluice/control/api"
)

// maxAuthFile is the largest file of an agent's that is read, in bytes.
const maxAuthFile = 4 << 20

// importOptions are what is said of the credentials beside the file.
type importOptions struct {
	name     string // of the one credential, or what the names of several begin with; "": derived
	provider string // hermes's: only its credentials; "": all
	tokenURL string // where accounts are refreshed, if the file and the agent do not tell
	clientID string
}

// importers read the file of an agent's; now is when an account of unknown end ends.
var importers = map[string]func(raw []byte, o importOptions, now time.Time) (imported, error){
	"codex": codexCredentials, "hermes": hermesCredentials,
}

// imported is what is in a file, in its order.
type imported struct {
	specs []api.CredentialSpec
	notes []string // of what is left out, and why
}

func (c *cli) credImportCommand() *cobra.Command {
	var o importOptions
	cmd := &cobra.Command{
		Use:   "import codex|hermes FILE",
		Short: "Store the credentials that an agent has in a file of its own",
		Long: `Reads the file in which Codex (~/.codex/auth.json) or Hermes (~/.hermes/auth.json) keeps its keys and logins, and stores
them as credentials: all of them, or none. The file is not changed, and pools are not made. docs/accounts.md says what of
the files is read.

Names are derived (codex; PROVIDER-LABEL for Hermes). --name gives another one; several credentials get it with -1, -2
and so on.

A login's refresh token is good for one use: once sluice has refreshed it, the agent's own copy is worth nothing, and the
agent has to go on through sluice.`,
		Example: `  sluice cred import codex ~/.codex/auth.json --name work
  sluice cred import hermes ~/.hermes/auth.json --provider openai-codex`,
		Args: arguments("codex|hermes", "FILE"),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return []string{"codex", "hermes"}, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			read := importers[args[0]]
			if read == nil {
				return usageError{fmt.Sprintf("cred import: %q is neither codex nor hermes", args[0])}
			}
			if args[0] == "codex" && o.provider != "" {
				return usageError{"cred import codex: --provider is for hermes, whose file has several"}
			}
			raw, err := readAuthFile(args[1])
			if err != nil {
				return err
			}
			found, err := read(raw, o, time.Now().UTC())
			if err != nil {
				return fmt.Errorf("cred import: %s: %w; nothing was stored", args[1], err)
			}
			return c.importAll(cmd.Context(), found)
		},
	}
	cmd.Flags().StringVar(&o.name, "name", "", "name of the credential, or what the names of several begin with (default: derived)")
	cmd.Flags().StringVar(&o.provider, "provider", "", "hermes: only the credentials of this provider of its file")
	cmd.Flags().StringVar(&o.tokenURL, "token-url", "", "where logins are refreshed, if it is not the agent's own place")
	cmd.Flags().StringVar(&o.clientID, "client-id", "", "the OAuth client that the logins were given to, if it is not the agent's own")
	return cmd
}

func readAuthFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cred import: %w", err)
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxAuthFile+1))
	if err != nil {
		return nil, fmt.Errorf("cred import: %w", err)
	}
	if len(raw) > maxAuthFile {
		return nil, fmt.Errorf("cred import: %s is larger than %d bytes: is this the right file?", path, maxAuthFile)
	}
	return raw, nil
}

// importAll stores all credentials. If one is refused, or a signal comes, those before it are removed again.
func (c *cli) importAll(ctx context.Context, found imported) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	interrupted, stop := untilEnded(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	defer context.AfterFunc(interrupted, stop)() // a second one ends it at once
	made := make([]api.Credential, 0, len(found.specs))
	for _, spec := range found.specs {
		// What is under way is waited for: it has to be known whether there is something to undo.
		credential, err := client.AddCredential(ctx, spec)
		if err == nil {
			made = append(made, credential)
			if interrupted.Err() != nil {
				err = errors.New("interrupted")
			}
		}
		if err != nil {
			return fmt.Errorf("import credential %q: %w; %s", spec.Name, err, undoImport(context.WithoutCancel(ctx), client, made))
		}
	}
	for _, note := range found.notes {
		fmt.Fprintln(c.stderr, "left out: "+note)
	}
	return c.print(made, func() {
		for _, credential := range made {
			fmt.Fprintln(c.stdout, credential.Name)
		}
	})
}

// undoImport says what was undone, or what is left.
func undoImport(ctx context.Context, client *api.Client, made []api.Credential) string {
	var left []string
	var away *api.UnreachableError // is not waited for again and again
	for _, credential := range made {
		if away == nil {
			if err := client.RemoveCredential(ctx, credential.Name); err == nil {
				continue
			} else if !errors.As(err, &away) {
				away = nil
			}
		}
		left = append(left, credential.Name)
	}
	if len(left) > 0 {
		return "these were stored before it and cannot be removed again, 'sluice cred remove' does it: " + strings.Join(left, ", ")
	}
	return "nothing was stored"
}
