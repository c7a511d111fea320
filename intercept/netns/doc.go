// Package netns opens network namespaces and makes TCP sockets inside them: the
// sockets are then used from anywhere, and no thread stays behind in the namespace.
package netns
