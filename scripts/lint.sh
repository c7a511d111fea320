#!/usr/bin/env bash
# Formatting, vet and staticcheck over what git tracks. Any finding fails.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
tool() { "$go" tool -modfile=scripts/tools/go.mod "$@"; }
failed=0

mapfile -t sources < <(git ls-files '*.go' | grep -v -E '_bpfe[lb]\.go$|\.gen\.go$')
unformatted=$(tool gofumpt -l "${sources[@]}")
if [ -n "$unformatted" ]; then
	echo "lint: not formatted (make fmt):" >&2
	echo "$unformatted" >&2
	failed=1
fi

mapfile -t c < <(git ls-files 'bpf/*.c' 'bpf/*.h')
clang-format-14 --dry-run -Werror "${c[@]}" || failed=1

while IFS= read -r script; do
	bash -n "$script" || failed=1
done < <(git ls-files '*.sh' .ci/run)

"$go" vet ./... || failed=1
tool staticcheck ./... || failed=1
# What only the guest of scripts/vm runs.
"$go" vet -tags guest ./scripts/vm/guest || failed=1
tool staticcheck -tags guest ./scripts/vm/guest || failed=1

if ! "$go" mod verify >/dev/null; then failed=1; fi
if ! "$go" mod tidy -diff >/dev/null; then
	echo "lint: go.mod or go.sum is not tidy: run 'go mod tidy'" >&2
	failed=1
fi
exit $failed
