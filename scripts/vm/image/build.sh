#!/usr/bin/env bash
# Makes the guest's disk from Debian's packages: no image is downloaded, and no boot loader is needed.
#   build.sh OUT DEBS
# OUT gets disk.qcow2, key and key.pub (root's and vagrant's), vmlinuz, initrd, release (the kernel's) and manifest (every package).
# DEBS keeps the downloaded packages.
#
# It runs in mount and process namespaces of its own, which take with them what debootstrap mounts and starts, however this ends.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $$ = 1 ] || exec unshare --mount --pid --fork --kill-child --mount-proc bash "$here/build.sh" "$@"
out=$1 debs=$2
root=$out/root
mkdir -p "$out" "$debs"
say() { echo "image: $*" >&2; }

mapfile -t packages < <(grep -v '^#' "$here/packages")
say "debootstrap of bookworm with ${#packages[@]} packages and what they need"
# A disk that is half made when the power fails is made again: nothing in it need be safe until then.
DPKG_FORCE=unsafe-io debootstrap --variant=minbase --cache-dir="$debs" --include="$(IFS=,; echo "${packages[*]}")" \
	bookworm "$root" >"$out/debootstrap.log" 2>&1 || {
	tail -n 20 "$out/debootstrap.log" >&2
	say "debootstrap failed; its last words are above"
	exit 1
}

say "configuring it"
ssh-keygen -q -t ed25519 -N '' -C sluice-vm -f "$out/key"
cp "$out/key.pub" "$here/configure.sh" "$root/root/"
chroot "$root" bash /root/configure.sh
rm "$root/root/key.pub" "$root/root/configure.sh"
basename "$root"/lib/modules/* >"$out/release"
# qemu is given the kernel and its initrd; on the disk there is no use for them.
mv "$root/boot/vmlinuz-$(cat "$out/release")" "$out/vmlinuz"
mv "$root/boot/initrd.img-$(cat "$out/release")" "$out/initrd"
chroot "$root" dpkg-query --show >"$out/manifest"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*

say "making the disk"
truncate -s 3G "$out/disk.raw"
mke2fs -q -F -t ext4 -L root -d "$root" "$out/disk.raw"
qemu-img convert -O qcow2 "$out/disk.raw" "$out/disk.qcow2"
rm -rf "$out/disk.raw" "$out/debootstrap.log" "$root"
