# Sourced by run.sh and by the smoke test: one holdfast dev in the background.
# shellcheck shell=bash
#
#   dev_start DIR    starts bin/holdfast dev on free ports with its data in
#                    DIR/data and its log in DIR/dev.log, waits until it is
#                    ready, and sets HOLDFAST_ADDR (exported) and dev_http
#   dev_stop         stops it and waits

dev_pid=
dev_http=

dev_start() {
	local dir=$1 i
	rm -f "$dir/addr"
	# A job of its own, so that Ctrl-C in the terminal comes to us, not to both:
	# for holdfast a second signal means "now".
	set -m
	bin/holdfast dev --data "$dir/data" --listen 127.0.0.1:0 --http 127.0.0.1:0 --notify 127.0.0.1:0 --addr-file "$dir/addr" --kill \
		</dev/null >"$dir/dev.log" 2>&1 &
	dev_pid=$!
	set +m
	for ((i = 0; i < 300; i++)); do
		if [ -s "$dir/addr" ]; then
			HOLDFAST_ADDR=$(sed -n 's/^grpc=//p' "$dir/addr")
			dev_http=$(sed -n 's/^http=//p' "$dir/addr")
			export HOLDFAST_ADDR
			return 0
		fi
		kill -0 "$dev_pid" 2>/dev/null || break
		sleep 0.1
	done
	echo "holdfast dev did not become ready; its log ends:" >&2
	tail -n 20 "$dir/dev.log" >&2
	dev_stop
	return 1
}

dev_stop() {
	[ -n "$dev_pid" ] || return 0
	local i
	kill -TERM "$dev_pid" 2>/dev/null || true # take nothing new, finish
	for ((i = 0; i < 100; i++)); do
		kill -0 "$dev_pid" 2>/dev/null || break
		# Once more: kill the steps that still run, and go.
		[ "$i" != 30 ] || kill -TERM "$dev_pid" 2>/dev/null || true
		sleep 0.1
	done
	kill -KILL "$dev_pid" 2>/dev/null || true
	wait "$dev_pid" 2>/dev/null || true
	dev_pid=
}
