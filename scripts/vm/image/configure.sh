#!/usr/bin/env bash
# Runs inside the guest's root directory, once, while its disk is made.
set -euo pipefail
echo sluice-guest >/etc/hostname
printf '127.0.0.1 localhost sluice-guest\n::1 localhost\n' >/etc/hosts
echo '/dev/vda / ext4 defaults,noatime 0 1' >/etc/fstab
: >/etc/machine-id
cat >/etc/systemd/network/80-dhcp.network <<'NET'
[Match]
Name=en* eth*
[Network]
DHCP=yes
LinkLocalAddressing=no
IPv6AcceptRA=no
NET
systemctl enable -q systemd-networkd ssh containerd serial-getty@ttyS0
# Nothing that a test does not want: it would only make an emulated machine slower.
systemctl mask -q systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
	e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-timesyncd.service man-db.timer motd-news.timer
# The journal has to outlive a reboot: the tests read what the boot before said.
mkdir -p /var/log/journal /etc/systemd/journald.conf.d
printf '[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\n' >/etc/systemd/journald.conf.d/guest.conf

useradd -m -s /bin/bash vagrant
usermod -p '*' vagrant
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/vagrant
chmod 440 /etc/sudoers.d/vagrant
for home in /root /home/vagrant; do
	mkdir -p -m 700 "$home/.ssh"
	cp /root/key.pub "$home/.ssh/authorized_keys"
	chmod 600 "$home/.ssh/authorized_keys"
done
chown -R vagrant:vagrant /home/vagrant/.ssh
cat >/etc/ssh/sshd_config.d/guest.conf <<'SSHD'
UseDNS no
PermitRootLogin prohibit-password
PasswordAuthentication no
PrintMotd no
PrintLastLog no
SSHD
sed -i 's/^\(session.*pam_\(motd\|mail\)\.so\)/#\1/' /etc/pam.d/sshd

# Only what it takes to mount the disk: the rest would be unpacked at each boot, for seconds.
cat >/etc/initramfs-tools/modules <<'MODULES'
virtio_pci
virtio_blk
ext4
crc32c_generic
MODULES
sed -i 's/^MODULES=.*/MODULES=list/; s/^COMPRESS=.*/COMPRESS=gzip/; s/^FSTYPE=.*/FSTYPE=ext4/' /etc/initramfs-tools/initramfs.conf
update-initramfs -u -k all
