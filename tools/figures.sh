#!/usr/bin/env bash
# figures.sh: measures what docs/figures.tsv lists, and renews it. A test prints a
# figure as "figure: NAME = VALUE"; of several values of one name the last counts.
set -euo pipefail
cd "$(dirname "$0")/.."

file=docs/figures.tsv
out=$(mktemp)
trap 'rm -f "$out" "$out.new"' EXIT
tail -n +2 "$file" | cut -f 2,3 | sort -u | while IFS=$'\t' read -r package test; do
	echo "== $package $test" >&2
	go test -count=1 -v -timeout 30m -run "^$test\$" "./$package" | grep -Eo 'figure: .*' >>"$out" || { echo "$package $test failed, or told no figure" >&2; exit 1; }
done
today=$(date -u +%Y-%m-%d)
head -n 1 "$file" >"$out.new"
tail -n +2 "$file" | while IFS=$'\t' read -r name package test _; do
	value=$(grep -F "figure: $name = " "$out" | tail -n 1 | sed 's/^figure: .* = //') || true
	[ -n "$value" ] || { echo "$test told no figure \"$name\"" >&2; exit 1; }
	printf '%s\t%s\t%s\t%s\t%s\n' "$name" "$package" "$test" "$value" "$today"
done >>"$out.new"
cp "$out.new" "$file"
go test -count=1 -run '^TestPromises$' ./cmd/internal/deptest -update
