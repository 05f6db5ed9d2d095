#!/usr/bin/env bash
# Prints the flags for the race detector if it works here, else says loudly that
# it does not.
#
# SQLite is C turned into Go, on memory that the detector does not know. To watch
# it finds nothing and takes most of the time. Its locks are Go's, and those are
# seen as ever; so is its driver, which copies what we hand over.
set -euo pipefail

if command -v "$(go env CC | cut -d' ' -f1)" >/dev/null && echo '#include <stdlib.h>' | $(go env CC) -E - >/dev/null 2>&1; then
	echo -race -gcflags=modernc.org/{sqlite/lib,libc,memory}=-race=false
	exit 0
fi
{
	echo "################################################################"
	echo "# NO RACE DETECTOR: it needs a C compiler and its headers.     #"
	echo "# Data races are NOT looked for in this run.                   #"
	echo "# Debian, Ubuntu: apt-get install gcc libc6-dev                #"
	echo "################################################################"
} >&2
if [ -n "${CI:-}" ]; then
	echo "CI must have it." >&2
	exit 1
fi
