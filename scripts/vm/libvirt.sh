#!/usr/bin/env bash
# libvirt that nobody else sees: process 1 of a process namespace, in mount and network namespaces of its own. When it ends, so do
# libvirt, its dnsmasq and its machines, and with them goes whatever they mounted and every link and rule that they made.
#   libvirt.sh DIR      keeps its state in DIR; prints "ready" when it is
set -euo pipefail
[ $$ = 1 ] || { echo "libvirt.sh: it is for a process namespace of its own: run 'make test-vm'" >&2; exit 1; }
dir=$1
mount --make-rprivate /
mount -t proc proc /proc
# A new sysfs would hide the cgroups.
mount -t tmpfs tmpfs /run
ip link set lo up

mkdir -p "$dir"/{lib,log,cache}
cp -a /etc/libvirt "$dir/etc"
cp -a /var/lib/libvirt/. "$dir/lib/"
# As root: libvirt-qemu may not open /dev/kvm, and libvirt would ask qemu what it can do, for two minutes, at each start of a machine.
# Its cgroups would outlive all of this.
cat >"$dir/etc/qemu.conf" <<-CONF
	user = "root"
	group = "root"
	security_driver = "none"
	cgroup_controllers = []
CONF
# There is nobody else in here to be kept out, and no polkit to ask.
cat >"$dir/etc/libvirtd.conf" <<-CONF
	auth_unix_ro = "none"
	auth_unix_rw = "none"
CONF
mkdir -p /var/log/libvirt /var/cache/libvirt
mount --bind "$dir/etc" /etc/libvirt
mount --bind "$dir/lib" /var/lib/libvirt
mount --bind "$dir/log" /var/log/libvirt
mount --bind "$dir/cache" /var/cache/libvirt

mkdir -p /run/libvirt
virtlogd >"$dir/virtlogd.log" 2>&1 &
libvirtd >"$dir/libvirtd.log" 2>&1 &
for _ in $(seq 300); do
	if virsh --quiet --connect qemu:///system list >/dev/null 2>&1; then
		echo ready
		wait # and reap what is left to process 1
		exit 1
	fi
	sleep 0.1
done
echo "libvirt.sh: libvirtd does not answer:" >&2
tail -n 20 "$dir/libvirtd.log" >&2
exit 1
