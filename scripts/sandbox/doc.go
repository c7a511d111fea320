// Package sandbox is what the demo and the benchmark run in: network namespaces without a name and a daemon that leaves nothing behind.
//
// Everything in it goes with the processes that use it: the namespaces have no name, and the daemon's BPF pins are on a file
// system of its own mount namespace. So an interrupted program, or a killed one, leaves no rule and no program in the kernel.
//
// A program that uses it begins with Become.
package sandbox
