#!/usr/bin/env bash
# sim.sh [FLAG…]: runs the simulation with these flags of go test, and tells which
# rules of PROTOCOL.md it came by, and how often. Without flags it must have come
# by all of them.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
go test -count=1 -timeout "${SIM_TIMEOUT:-0}" -covermode=atomic -coverprofile="$dir/profile" \
	-coverpkg=./journal/...,./master/...,./proto/...,./retry/...,./slave/... "$@" ./cmd/internal/sim
go run ./cmd/internal/rules "$dir/profile" >"$dir/rules" && code=0 || code=$?
cat "$dir/rules"
if [ "$code" = 1 ] && [ $# -gt 0 ]; then
	echo "this is a part of the simulation: not to come by a rule is no failure"
	exit 0
fi
exit "$code"
