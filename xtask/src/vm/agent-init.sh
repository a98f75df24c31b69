#!/bin/sh
# The first process: loads the modules, then does what the host says, one script a line. See live.rs.
# In a folder of their own: they would replace the real programs.
/bin/busybox --install -s /applets
export PATH=/bin:/applets HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t bpf bpf /sys/fs/bpf
ln -s /run /var/run
while read -r module; do
	insmod "/modules/$module.ko" || echo "insmod $module: failed" >/dev/console
done </modules/order
ip link set lo up
# A host that is gone does not switch it off.
(sleep "$(cat /limit)"; poweroff -f) &
for port in /sys/class/virtio-ports/*; do
	[ "$(cat "$port/name")" = agent ] && agent=/dev/${port##*/}
done
exec 3<>"$agent"
echo "ready" >&3
while :; do
	# Nothing comes while the host is not connected.
	read -r limit script <&3 || { sleep 0.1; continue; }
	echo "$script" | base64 -d >/tmp/script
	timeout -s KILL "$limit" /bin/sh /tmp/script >/tmp/out 2>/tmp/err </dev/null
	echo "$?:$(base64 -w0 </tmp/out):$(base64 -w0 </tmp/err)" >&3
done
