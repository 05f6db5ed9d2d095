#!/usr/bin/env bash
# sim.sh [FLAG…]: runs the simulation with these flags of go test. It tells what it
# was made of, and which rules of PROTOCOL.md it came by, and how often; without
# flags it must have come by all of them.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
go build -o "$dir/rules" ./cmd/internal/rules
sim() {
	go test -count=1 -v -timeout "${SIM_TIMEOUT:-0}" -covermode=atomic -coverprofile="$dir/profile" \
		-coverpkg=./journal/...,./master/...,./proto/...,./retry/...,./slave/... ./cmd/internal/sim "$@"
}
if [ $# -gt 0 ]; then
	sim "$@"
else
	sim >"$dir/out" 2>&1 || { cat "$dir/out"; exit 1; }
	sed -n '/ runs: /,/changes of slaves/p; /^ok/p' "$dir/out"
fi
"$dir/rules" "$dir/profile" && code=0 || code=$?
if [ "$code" = 1 ] && [ $# -gt 0 ]; then
	echo "this is a part of the simulation: not to come by a rule is no failure"
	exit 0
fi
exit "$code"
