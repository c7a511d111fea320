// Package bpf is the kernel side of the redirect: the programs on an agent's
// cgroup, and the only code that knows a map.
package bpf
