#!/usr/bin/env bash
# `make run`: a master and a slave on this machine, one real build by them, then
# they stay up to be tried. With ONCE=1 it ends with the build and its exit code.
#
# Data is in a temporary directory that goes away at the end; HOLDFAST_DATA=DIR
# keeps it in DIR.
set -euo pipefail
cd "$(dirname "$0")/.."
. examples/dev.sh

if [ -n "${HOLDFAST_DATA:-}" ]; then
	dir=$HOLDFAST_DATA
	mkdir -p "$dir"
else
	dir=$(mktemp -d "${TMPDIR:-/tmp}/holdfast.XXXXXX")
fi
finish() {
	dev_stop
	if [ -z "${HOLDFAST_DATA:-}" ]; then
		chmod -R u+w "$dir" 2>/dev/null || true # Go's module cache is read-only, should a step have made one here
		rm -rf "$dir"
	fi
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

echo "== holdfast dev: a master and a slave on this machine"
dev_start "$dir"
echo "   gRPC $HOLDFAST_ADDR, HTTP $dev_http, data and log in $dir"
echo
echo "== holdfast run -f examples/self.yaml --env SELF=$PWD"
code=0
bin/holdfast run -f examples/self.yaml --env "SELF=$PWD" || code=$?
echo
if [ "$code" = 0 ]; then
	echo "== the build succeeded"
else
	echo "== the build did not succeed (exit code $code)"
	tail -n 5 "$dir/dev.log"
fi
[ -z "${ONCE:-}" ] || exit "$code"

cat <<EOF

It stays up until Ctrl-C. In another terminal, from this directory:

  export HOLDFAST_ADDR=$HOLDFAST_ADDR
  bin/holdfast ls                                     # what has been built
  bin/holdfast run -- sh -c 'for i in 1 2 3; do echo line \$i; sleep 1; done'
  bin/holdfast slaves                                 # who builds
  bin/holdfast submit --name nap -- sleep 600         # prints the build's id
  bin/holdfast explain ID                             # why it waits, was retried, was shelved
  bin/holdfast cancel ID --reason 'seen enough'
  bin/holdfast events -f                              # all that happens, as it happens
  curl http://$dev_http/readyz
EOF
wait "$dev_pid" || true
dev_pid=
echo "holdfast dev ended; its log ends:" >&2
tail -n 20 "$dir/dev.log" >&2
exit 1
