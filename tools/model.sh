#!/usr/bin/env bash
# model.sh: searches the models of proto/model exhaustively, as they are and with
# each rule taken away. It fails if a model as it is breaks a property, if one
# without a rule does not break the one that the rule is there for, or if a
# search was not complete. MODEL=PATTERN picks lines of the list.
set -euo pipefail
cd "$(dirname "$0")/.."

# model, variant, what must break (none: nothing), flags
list='
stream   intact                     none                      -DFAULTS=2
stream   restored                   none                      -DFAULTS=1 -DRESTORE -DN=2
stream   NO_JOURNAL_BEFORE_SEND     ok_journal_has_sent       -DFAULTS=2
stream   NO_COMMIT_BEFORE_ACK       ok_acked_is_durable       -DFAULTS=2
stream   NO_CONTIGUOUS_APPLY        ok_in_order               -DFAULTS=2
stream   NO_FENCE_IN_TRANSACTION    ok_once                   -DFAULTS=2
stream   NO_MARK_KEPT               ok_once                   -DFAULTS=2
stream   NO_SYNC_BEFORE_USE_SLAVE   ok_journal_has_sent       -DFAULTS=2
stream   NO_SYNC_BEFORE_USE_MASTER  ok_acked_is_durable       -DFAULTS=2
stream   NO_EPOCH_ABOVE_HELLO       ok_welcome_above          -DFAULTS=1 -DRESTORE
stream   JOURNAL_SYNC_FAILS         ok_journal_has_sent       -DFAULTS=2
attempt  intact                     none                      -DFAULTS=1
attempt  one_slave                  none                      -DFAULTS=2 -DONE_SLAVE
attempt  NO_START_AFTER_ACK         ok_start_only_accepted    -DFAULTS=1
attempt  NO_WANTS_BEFORE_ACK        ok_start_only_accepted    -DFAULTS=1 -DONE_SLAVE
attempt  NO_WORD_AGAIN              ok_start_only_accepted    -DFAULTS=2 -DONE_SLAVE
attempt  NO_KIND_BEFORE_MARKS       ok_start_only_accepted    -DFAULTS=1
attempt  NO_STATE_CHECK_WITHDRAW    ok_accepted_not_withdrawn -DFAULTS=1
attempt  NO_SUPERSEDE_AT_ACCEPT     ok_single_live            -DFAULTS=1
attempt  NO_EVIDENCE_ONLY           ok_stopped_not_wanted     -DFAULTS=1
attempt  NO_FENCE_LOSE              ok_lost_only_while_away   -DFAULTS=1 -DONE_SLAVE
attempt  NO_FENCE_DISCONNECT        ok_not_away_while_open    -DFAULTS=1
attempt  NO_EPOCH_ABOVE_STORE       ok_not_away_while_open    -DFAULTS=2 -DONE_SLAVE
attempt  NO_DEFER_WHILE_HELLO       ok_settled                -DFAULTS=1
'
depth=10000   # no run is a hundredth as long; a search that comes here is not complete
memory=3000   # MB for one search

for tool in spin gcc; do
	command -v "$tool" >/dev/null || { echo "$tool is missing: tools/deps.sh installs it"; exit 2; }
done
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# search MODEL VARIANT EXPECTED FLAG…: one line of the table.
search() {
	local model=$1 variant=$2 expected=$3 dir=$tmp/$1.$2 level=-O0 found verdict
	local source=$PWD/proto/model/$model.pml flags=("${@:4}")
	if [ "$expected" != none ]; then flags+=("-D$variant"); fi
	# Only what searches for long is worth the compiler's time.
	case $variant in
	intact | one_slave | NO_SUPERSEDE_AT_ACCEPT) level=-O1 ;;
	esac
	mkdir "$dir"
	cd "$dir"
	# Assertions are found by the compiler's defaults: exhaustive, no bit state.
	if ! { spin -a "${flags[@]}" "$source" && gcc $level -w -DSAFETY -DVECTORSZ=1024 -DMEMLIM=$memory -o pan pan.c; } >build 2>&1; then
		cat build
		verdict="FAILED: does not compile"
	else
		timeout 600 ./pan -m$depth >out 2>&1 || true
		found=$(sed -nE 's/^pan:1: assertion violated (ok_[a-z_]+).*/\1/p; s/^pan:1: invalid end state.*/invalid end state/p' out | head -n 1)
		if grep -qE 'max search depth too small|out of memory|reached -DMEMLIM' out || ! grep -q '^State-vector' out; then
			verdict="FAILED: the search is not complete"
		elif [ "${found:-none}" = "$expected" ]; then
			verdict=ok
			[ "$expected" = none ] || verdict="ok: $found"
		elif [ -n "$found" ]; then
			verdict="FAILED: $found"
		else
			verdict="FAILED: finds nothing"
		fi
		# Whatever pan says besides, a model as it is has no errors.
		if [ "$verdict" = ok ] && ! grep -q 'errors: 0$' out; then verdict="FAILED: $(grep 'errors:' out)"; fi
	fi
	printf '%-8s %-26s %9s %6s %8s  %s\n' "$model" "$variant" \
		"$(sed -nE 's/^ *([0-9]+) states, stored.*/\1/p' out 2>/dev/null)" \
		"$(sed -nE 's/.*depth reached ([0-9]+),.*/\1/p' out 2>/dev/null)" \
		"$(sed -nE 's/^pan: elapsed time ([0-9.e+-]+) seconds/\1/p' out 2>/dev/null)" "$verdict"
	cd - >/dev/null
	rm -rf "$dir"
	[ "${verdict%%:*}" = ok ]
}

printf '%-8s %-26s %9s %6s %8s  %s\n' model variant states depth seconds verdict
failed=0 running=0 chosen=0
while read -r model variant expected flags; do
	[ -n "$model" ] || continue
	[[ "$model $variant" =~ ${MODEL:-.} ]] || continue
	chosen=1
	# Two at a time, one for each core that we may take for granted.
	if [ "$running" = 2 ]; then
		wait -n || failed=1
		running=$((running - 1))
	fi
	# shellcheck disable=SC2086 # flags is a list
	search "$model" "$variant" "$expected" $flags </dev/null &
	running=$((running + 1))
done <<<"$list"
[ "$chosen" = 1 ] || { echo "no variant matches $MODEL"; exit 2; }
while [ "$running" -gt 0 ]; do
	wait -n || failed=1
	running=$((running - 1))
done
exit "$failed"
