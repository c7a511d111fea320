// Package exchange terminates the TLS of one intercepted connection and carries
// its HTTP requests upstream with a pool's credential, on the next member where
// the first is refused.
//
// docs/exchange.md tells a request's way through it.
package exchange
