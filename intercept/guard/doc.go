// Package guard closes what the redirect cannot see: connections that are older than an attach.
package guard
