#!/bin/busybox sh
# First process of the Linux guest: loads modules, runs /job with its output on
# the virtio console, reports the status on the serial port.
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ LC_ALL=C
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
while read -r module; do insmod "/modules/$module"; done < /modules/order
out=/dev/hvc0
n=0
while [ ! -c $out ] && [ $n -lt 100 ]; do usleep 20000; n=$((n + 1)); done
# The mode lasts as long as somebody has the device open.
exec 3<> $out
stty -F $out raw -echo
(cd / && exec setsid sh /job) < /dev/null > $out 2>&1
status=$?
umount -a -t xfs 2>/dev/null
sync
echo
echo "holdfast-linux-guest: status $status"
usleep 50000
poweroff -f
