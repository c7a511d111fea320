package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (c *cli) caCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "ca", Short: "The certificates that agents have to trust",
	}, &cobra.Command{
		Use: "show", Short: "Print the CA certificates as PEM",
		Long: `Prints the certificates of the authorities that sluice signs with. They are limited to the hosts that pools are
bound to: for any other host a client refuses what they sign.`,
		Example: `  sluice ca show > sluice.pem && NODE_EXTRA_CA_CERTS=sluice.pem node agent.js`,
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			pem, err := client.CA(cmd.Context())
			if err != nil {
				return err
			}
			if len(pem) == 0 {
				fmt.Fprintln(c.stderr, "there is no certificate: 'sluice pool create' makes the first one, for the hosts of its pool")
			}
			if c.format == formatJSON {
				return c.print(map[string]string{"pem": string(pem)}, nil)
			}
			_, err = c.stdout.Write(pem)
			return err
		},
	})
}
