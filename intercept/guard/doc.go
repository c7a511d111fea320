// Package guard closes what the redirect cannot see: packets that leave by a namespace's links
// without it, and connections that are older than an attach.
package guard
