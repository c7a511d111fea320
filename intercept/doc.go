// Package intercept is the data plane: it attaches to cgroups, listens inside the network
// namespaces of their processes, and decides for each redirected connection whether it is
// passed on untouched or belongs to a pool.
package intercept
