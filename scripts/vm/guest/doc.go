// Package guest has the tests that run in the guest of scripts/vm, as root, on a Debian that has nothing of sluice's yet.
//
// They have the build tag guest: outside of the guest they would take the machine over. `make test-vm-fast` and
// `make test-vm` bring them there. One test is one boot; its steps come after each other, and a step may rely on those
// before it.
package guest
