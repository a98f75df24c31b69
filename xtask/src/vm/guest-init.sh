#!/bin/busybox sh
# The first process: does the steps, says on the second serial port what came of each, and switches off. See guest.rs.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t bpf bpf /sys/fs/bpf
# Kept open: the settings would go with the last who closes it.
exec 3<>/dev/ttyS1
stty raw -echo <&3
for step in /steps/*; do
	sh "$step" >/tmp/out 2>/tmp/err </dev/null
	code=$?
	echo "begin ${step##*/}" >&3
	# awk ends the last line, whatever it ended with.
	awk '{ print "out " $0 }' /tmp/out >&3
	awk '{ print "err " $0 }' /tmp/err >&3
	echo "end $code" >&3
done
echo "done" >&3
# Waits until all has been sent.
exec 3>&-
poweroff -f
