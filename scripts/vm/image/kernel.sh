#!/usr/bin/env bash
# Gets a further kernel for the guest from Debian's packages.
#   kernel.sh NAME OUT
# OUT gets vmlinuz, initrd, release and modules.img, an ext4 file system. The initrd is as small as can be: it mounts the guest's disk,
# the modules into it, and goes over to systemd. So the disk needs to know nothing of the kernels that it is booted with.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
name=$1 out=$2
read -r _ archive suite < <(grep -E "^$name[[:space:]]" "$here/kernels") || { echo "image: no kernel $name in $here/kernels" >&2; exit 1; }
# The archive is the one that this machine uses.
mirror=$(apt-get indextargets --format '$(SITE)' | sed 's|/*$||' | grep -m 1 -E "/$archive\$") || { echo "image: this machine's apt has no archive $archive" >&2; exit 1; }
mkdir -p "$out/apt/lists/partial" "$out/apt/cache/archives/partial" "$out/debs" "$out/unpacked" "$out/modules" "$out/init"

# An apt of its own: the machine's sources and lists stay what they are.
echo "deb $mirror $suite main" >"$out/apt/sources.list"
apt=(-qq -o "Dir::Etc::sourcelist=$out/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$out/apt/lists"
	-o Dir::State::status=/dev/null -o "Dir::Cache=$out/apt/cache" -o Acquire::Languages=none -o APT::Sandbox::User=root)
apt-get "${apt[@]}" update
depends() { apt-cache "${apt[@]}" depends "$1" | sed -n 's/.*Depends: \(linux-[a-z]*-[0-9][^ ]*\)$/\1/p'; }
package=$(depends linux-image-cloud-amd64 | grep '^linux-image-' | head -n 1)
[ -n "$package" ] || { echo "image: $suite has no linux-image-cloud-amd64" >&2; exit 1; }
release=${package#linux-image-}
echo "image: kernel $name is $release of $suite" >&2
mapfile -t packages < <(echo "$package"; depends "$package" | grep -F -- "-$release")
(cd "$out/debs" && apt-get "${apt[@]}" download "${packages[@]}")
for deb in "$out"/debs/*.deb; do dpkg-deb -x "$deb" "$out/unpacked"; done
modules=$(find "$out/unpacked" -type d -path "*/modules/$release")
vmlinuz=$(find "$out/unpacked" -name "vmlinuz-$release" -o -path "*/modules/$release/vmlinuz")
[ -n "$vmlinuz" ] && [ -n "$modules" ] || { echo "image: no kernel or no modules in ${packages[*]}" >&2; exit 1; }

mv "$vmlinuz" "$out/vmlinuz"
mkdir -p "$out/modules/lib/modules"
mv "$modules" "$out/modules/lib/modules/"
depmod -b "$out/modules" "$release"
echo "$release" >"$out/release"

mkdir -p "$out"/init/{bin,dev,proc,sys,root,modules}
cp "$(command -v busybox)" "$out/init/bin/busybox"
{
	echo '#!/bin/busybox sh'
	echo 'busybox mount -t devtmpfs none /dev; busybox mount -t proc none /proc; busybox mount -t sysfs none /sys'
	for module in virtio_pci virtio_blk ext4 crc32c_generic; do
		modprobe -d "$out/modules" -S "$release" --show-depends "$module" 2>/dev/null || true # it may be built in
	done | awk '$1 == "insmod" && !seen[$2]++ {print $2}' | while read -r file; do
		plain=$(basename "$file" .xz)
		case $file in *.xz) xz -dc "$file" >"$out/init/modules/$plain" ;; *) cp "$file" "$out/init/modules/$plain" ;; esac
		echo "busybox insmod /modules/$plain"
	done
	cat <<-'INIT'
		until [ -b /dev/vda ] && [ -b /dev/vdb ]; do busybox sleep 0.1; done
		busybox mount -t ext4 -o noatime /dev/vda /root
		busybox mount -t ext4 -o ro /dev/vdb /root/usr/lib/modules
		busybox mount --move /dev /root/dev; busybox mount --move /proc /root/proc; busybox mount --move /sys /root/sys
		exec busybox switch_root /root /sbin/init
	INIT
} >"$out/init/init"
chmod 755 "$out/init/init"
(cd "$out/init" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -9) >"$out/initrd"

truncate -s 512M "$out/modules.img"
mke2fs -q -F -t ext4 -O ^has_journal -d "$out/modules/lib/modules" "$out/modules.img"
rm -rf "$out/apt" "$out/debs" "$out/unpacked" "$out/modules" "$out/init"
