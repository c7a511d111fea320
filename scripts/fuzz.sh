#!/usr/bin/env bash
# Runs every fuzz target for a while: fuzz.sh [TIME], by default 20s each.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-20s}
go=${GO:-go}
while IFS=: read -r file name; do
	echo "== $name ($(dirname "$file"))"
	"$go" test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "./$(dirname "$file")"
done < <(git grep -oE '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go' | sed 's/func //')
