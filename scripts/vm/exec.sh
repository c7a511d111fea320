#!/usr/bin/env bash
# What `go test -exec` calls: runs a test binary in the guest that SLUICE_VM_SSH leads to, as root.
#   exec.sh BINARY ARGS...
set -euo pipefail
binary=$1
shift
line="cat >/root/test && chmod 755 /root/test && cd /root && SLUICE_KERNEL_TESTS=require exec /root/test"
for arg in "$@"; do line+=" $(printf %q "$arg")"; done
# The options of ssh are words without spaces.
# shellcheck disable=SC2086
exec $SLUICE_VM_SSH "$line" <"$binary"
