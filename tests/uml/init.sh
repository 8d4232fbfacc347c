#!/bin/sh
# The first process of the UML kernel (see boot.py): mounts what tests need, runs them, and switches the machine off.
# The root is the host's, read-only; all that is written goes to tmpfs, and to $OUT, the one folder shared with the host.
set -u
mount -t proc proc /proc
mount -t sysfs sysfs /sys
for folder in /tmp /run /var/tmp /dev/shm; do [ -d "$folder" ] && mount -t tmpfs tmpfs "$folder"; done
mkdir /tmp/out /tmp/modules /tmp/modules/lib
mount -t hostfs -o "$OUT" none /tmp/out
# A clone that lies in one of these folders is hidden by them.
if [ ! -d "$ROOT" ]; then mkdir -p "$ROOT" && mount -t hostfs -o "$ROOT" none "$ROOT"; fi
# Modules that the kernel asks for come out of the package's folder.
ln -s /usr/lib/uml/modules /tmp/modules/lib/modules
printf '#!/bin/sh\nexec /sbin/modprobe -d /tmp/modules "$@"\n' >/tmp/modprobe
chmod +x /tmp/modprobe
echo /tmp/modprobe >/proc/sys/kernel/modprobe
for module in veth ip_vs ip_vs_rr ip_vs_wrr ipip sch_netem nf_tables; do /tmp/modprobe "$module"; done
ip link set lo up
export HOME=/tmp PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1
cd "$ROOT" || exit 1
sh /tmp/out/run >/tmp/out/output 2>&1 </dev/null
echo $? >/tmp/out/code
sync
echo o >/proc/sysrq-trigger
sleep 5
