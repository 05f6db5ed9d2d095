#!/usr/bin/env bash
# Installs what the tests use besides Go and is missing: on Debian and its
# children as root; elsewhere it says what to install, and the tests that need
# it skip, loudly. With CI set nothing may be missing.
set -euo pipefail

# A sbin directory is not always on the path of a user who can run what is in it.
PATH=$PATH:/usr/sbin:/sbin
# Debian keeps PostgreSQL's server off the path, one directory per version.
for dir in /usr/lib/postgresql/*/bin; do
	PATH=$PATH:$dir
done

# command, package that has it, what for
needs='
gcc         gcc         the race detector
strace      strace      crashes and disk errors at chosen system calls
ip          iproute2    networks of their own for end-to-end tests
tc          iproute2    slow links
nsenter     util-linux  processes in such a network
nft         nftables    packet loss and resets
mkfs.ext4   e2fsprogs   small disks to fill
mount       mount       small disks to fill
sqlite3     sqlite3     reading the store as other tools do
nc          netcat-openbsd  the notification service, as a person uses it
php         php-cli     the store as a tool in PHP uses it
postgres    postgresql  the store in PostgreSQL, in clusters that tests make and throw away
pgbouncer   pgbouncer   that the store refuses to go through a connection pooler
spin        spin        searching the models of the protocol
'

missing=
packages=
while read -r command package use; do
	[ -n "$command" ] || continue
	if ! command -v "$command" >/dev/null; then
		missing+="  $command ($package): $use"$'\n'
		packages+=" $package"
	fi
done <<<"$needs"
# So with php, whose modules for databases are packages of their own.
for module in pgsql sqlite3; do
	if ! command -v php >/dev/null || [[ $(php -m) != *"pdo_${module%3}"* ]]; then
		missing+="  pdo_${module%3} of php (php-$module): the store as a tool in PHP uses it"$'\n'
		packages+=" php-$module"
	fi
done
# gcc alone is not enough, and --no-install-recommends leaves the headers out.
if [ "$(uname -s)" = Linux ] && [ ! -e /usr/include/stdlib.h ]; then
	missing+="  stdlib.h (libc6-dev): the race detector"$'\n'
	packages+=" libc6-dev"
fi
if [ "$(uname -s)" = Linux ] && [ "$(id -u)" != 0 ]; then
	echo "NOT ROOT, so that some tests will skip and prove nothing here: networks of their own, small disks, control groups"
fi
[ -n "$packages" ] || exit 0

if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
	echo "installing$packages"
	log=$(mktemp)
	conf=/etc/postgresql-common/createcluster.d
	no_cluster=$conf/holdfast-deps.conf
	no_start=
	trap 'rm -f "$log" "$no_cluster" $no_start; rmdir "$conf" 2>/dev/null || true' EXIT
	# Debian's PostgreSQL comes with a cluster and a service that runs it, which
	# nobody asked for here. Only while we install: what is there stays as it
	# is, and who installs it later gets what they expect.
	if [[ $packages == *postgresql* ]]; then
		mkdir -p "$conf"
		echo 'create_main_cluster = false' >"$no_cluster"
	fi
	# The same for pgbouncer's service: not started now, nor with the machine.
	if [[ $packages == *pgbouncer* && ! -e /usr/sbin/policy-rc.d ]]; then
		no_start=/usr/sbin/policy-rc.d
		printf '#!/bin/sh\nexit 101\n' >$no_start
		chmod 755 $no_start
	fi
	install() {
		# shellcheck disable=SC2086 # packages is a list
		DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $packages </dev/null >"$log" 2>&1 || return
		[[ $packages != *pgbouncer* ]] || ! command -v systemctl >/dev/null || systemctl disable pgbouncer >>"$log" 2>&1 || :
	}
	if install || { DEBIAN_FRONTEND=noninteractive apt-get update -q </dev/null >>"$log" 2>&1 && install; }; then
		exit 0
	fi
	tail -n 20 "$log"
fi

printf '%s\n%s' "MISSING, so that some tests will skip and prove nothing here:" "$missing"
echo "Debian, Ubuntu: apt-get install$packages (make test does it as root)"
[ -z "${CI:-}" ] || exit 1
