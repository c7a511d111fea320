#!/bin/sh
# Installs sluice on a distribution without a package of it: from an unpacked release, or from a clone (with make and Go).
# Said twice, it does no more than said once; a configuration that is there is kept.
#   install.sh                        install or upgrade, and start where systemd runs
#   install.sh --uninstall [--purge]  take it away; with --purge configuration, credentials and state too
# DESTDIR=DIR works below DIR, and starts nothing. A release is made for PREFIX=/usr/local, which is the default.
set -eu
# What is installed is for everybody, whatever umask root has.
umask 022
here=$(cd "$(dirname "$0")" && pwd)
DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX:-/usr/local}
action=install purge=no

fail() { echo "install.sh: $1" >&2; exit "${2:-1}"; }

for argument; do
	case $argument in
	--uninstall) action=uninstall ;;
	--purge) purge=yes ;;
	-h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
	*) fail "$argument: there is only --uninstall and --purge" 2 ;;
	esac
done
[ "$purge" = no ] || [ "$action" = uninstall ] || fail "--purge goes with --uninstall" 2
[ -n "$DESTDIR" ] || [ "$(id -u)" = 0 ] || fail "root writes to $PREFIX: use 'sudo $0'"
live=no
if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then live=yes; fi

list=$DESTDIR$PREFIX/share/doc/sluice/installed

if [ "$action" = uninstall ]; then
	if [ "$live" = yes ]; then systemctl disable --now sluice.service 2>/dev/null || true; fi
	# Programs that stayed in the kernel would shut agents out for ever.
	if [ -z "$DESTDIR" ] && [ -d /sys/fs/bpf/sluice ]; then
		"$PREFIX/bin/sluice" detach --all || fail "what is in the kernel could not be taken away: nothing was uninstalled"
	fi
	if [ -f "$list" ]; then
		while IFS= read -r file; do rm -f "$DESTDIR$file"; done <"$list"
		rm -rf "$DESTDIR$PREFIX/share/doc/sluice"
	fi
	if [ "$purge" = yes ]; then
		rm -rf "$DESTDIR/etc/sluice" "$DESTDIR/var/lib/sluice" "$DESTDIR/run/sluice"
		if [ -z "$DESTDIR" ] && getent group sluice >/dev/null; then groupdel sluice; fi
	fi
	if [ "$live" = yes ]; then systemctl daemon-reload; fi
	exit 0
fi

if [ -d "$here/root" ]; then
	[ "$PREFIX" = /usr/local ] || fail "a release is made for PREFIX=/usr/local; a clone can be installed elsewhere" 2
	from=$here/root
else
	command -v make >/dev/null || fail "neither a release is beside this script nor is there make to build one"
	from=$(mktemp -d)
	trap 'rm -rf "$from"' EXIT
	make --no-print-directory -C "$here/.." install DESTDIR="$from" PREFIX="$PREFIX"
fi

(cd "$from$PREFIX" && find . -type f) | sed "s|^\.|$PREFIX|" | while IFS= read -r file; do
	mkdir -p "$DESTDIR${file%/*}"
	# A running binary cannot be written to: the new one takes its place.
	cp -p "$from$file" "$DESTDIR$file.new"
	mv -f "$DESTDIR$file.new" "$DESTDIR$file"
done
(cd "$from$PREFIX" && find . -type f) | sed "s|^\.|$PREFIX|" | sort >"$list"
mkdir -p "$DESTDIR/etc/sluice"
chmod 750 "$DESTDIR/etc/sluice"
if [ ! -e "$DESTDIR/etc/sluice/config.toml" ]; then
	cp "$from/etc/sluice/config.toml" "$DESTDIR/etc/sluice/config.toml"
	chmod 640 "$DESTDIR/etc/sluice/config.toml"
fi
if [ -z "$DESTDIR" ] && ! getent group sluice >/dev/null; then groupadd --system sluice; fi
if [ "$live" = yes ]; then
	systemctl daemon-reload
	systemctl enable sluice.service
	systemctl restart sluice.service
	echo "sluice runs: 'sudo sluice doctor' says what this host lacks"
fi
