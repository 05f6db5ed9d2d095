#!/usr/bin/env bash
# fuzz.sh TIME PATTERN: runs each fuzz target whose name matches for TIME.
# go test fuzzes one target of one package at a time.
set -euo pipefail

time=$1 pattern=$2
targets=$(grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed 's|/[^/]*:func | |' | grep -E " .*$pattern" | sort || true)
[ -n "$targets" ] || { echo "no fuzz target matches $pattern"; exit 2; }
while read -r package name; do
	echo "== $package $name for $time"
	# Few tries to make an input smaller: a target with goroutines covers something
	# else each time, and would do nothing but that.
	go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" -fuzzminimizetime 10x "$package"
done <<<"$targets"
