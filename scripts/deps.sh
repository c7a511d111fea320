#!/usr/bin/env bash
# Installs, on Debian and Ubuntu, what the tests, the demo and the benchmark call.
# Prints nothing when everything is there already.
#   deps.sh         everything
#   deps.sh --demo  what `make demo` needs
#   deps.sh --bench what `make bench` needs: the proxies that sluice is measured beside, too
#   deps.sh --vm    what the guests of scripts/vm need besides everything
set -euo pipefail

demo=(ip:iproute2 nsenter:util-linux curl:curl)
all=("${demo[@]}" clang-14:clang-14 llvm-strip-14:llvm-14 clang-format-14:clang-format-14 nft:nftables
     nginx:nginx-light python3:python3 openssl:openssl git:git node:nodejs npm:npm keytool:default-jre-headless strace:strace
     containerd:containerd runc:runc busybox:busybox-static dockerd:docker.io
     bpftool:bpftool musl-gcc:musl-tools dbus-daemon:dbus-daemon groff:groff-base mandoc:mandoc systemd-analyze:systemd setpriv:util-linux gtlsclient:ngtcp2-client)
bench=("${demo[@]}" nft:nftables nginx:nginx-light haproxy:haproxy mitmdump:mitmproxy)
vm=(qemu-system-x86_64:qemu-system-x86 qemu-img:qemu-utils debootstrap:debootstrap mke2fs:e2fsprogs depmod:kmod xz:xz-utils
    ssh:openssh-client make:make git:git busybox:busybox-static vagrant:vagrant libvirtd:libvirt-daemon-system
    virsh:libvirt-clients dnsmasq:dnsmasq-base rsync:rsync ip:iproute2 iptables:iptables nsenter:util-linux curl:curl)
want=("${all[@]}")
case "${1:-}" in
--demo) want=("${demo[@]}") ;;
--bench) want=("${bench[@]}") ;;
--vm) want=("${vm[@]}") ;;
esac

missing=()
for pair in "${want[@]}"; do
	command -v "${pair%%:*}" >/dev/null 2>&1 || [ -x "/usr/sbin/${pair%%:*}" ] || missing+=("${pair#*:}")
done
[ -s /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
[ -n "${1:-}" ] || [ -s /usr/share/bash-completion/bash_completion ] || missing+=(bash-completion)
if [ "${1:-}" = --vm ]; then
	compgen -G '/usr/share/rubygems-integration/all/specifications/vagrant-libvirt-*' >/dev/null || missing+=(vagrant-libvirt)
	compgen -G '/usr/lib/*/libvirt/connection-driver/libvirt_driver_qemu.so' >/dev/null || missing+=(libvirt-daemon-driver-qemu)
fi

if [ ${#missing[@]} -gt 0 ]; then
	if ! command -v apt-get >/dev/null 2>&1; then
		echo "deps: missing: ${missing[*]} (names as on Debian); this script installs them with apt-get only: install them by hand" >&2
		exit 1
	fi
	if [ "$(id -u)" != 0 ]; then
		echo "deps: missing: ${missing[*]}; run it as root: sudo apt-get install ${missing[*]}" >&2
		exit 1
	fi
	echo "deps: installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# The benchmark starts its own nginx: a packaged service must not start one on port 80.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
		trap 'rm -f "$policy"' EXIT
	fi
	apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# What the tests drive through sluice, at the versions of the lock files. Node has a bundle of its own and asks the
# system's only where it is told: behind a proxy that ends TLS npm would find nothing.
npm_install() { # folder, what is in it
	if [ ! -f "$1/node_modules/.package-lock.json" ] ||
		[ "$1/package-lock.json" -nt "$1/node_modules/.package-lock.json" ]; then
		echo "deps: installing $2 of $1"
		NODE_EXTRA_CA_CERTS=${NODE_EXTRA_CA_CERTS:-/etc/ssl/certs/ca-certificates.crt} \
			npm ci --prefix "$1" --no-audit --no-fund --loglevel=error >/dev/null
	fi
}
if [ -z "${1:-}" ]; then
	npm_install "$(dirname "$0")/clients" "the npm clients"
	npm_install "$(dirname "$0")/agents" "the agents (Codex, Claude Code)"
fi
