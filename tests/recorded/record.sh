#!/usr/bin/env bash
# Records what Docker, firewalld and ufw of Debian 12 write into a packet filter: tests/recorded/record.sh [FOLDER]
#
# The packages are installed in an overlay over this machine's root, which lies in memory and is seen by this process
# alone; every program runs in a network namespace of its own. Of the machine nothing is changed. Needs root, 3 GB of
# memory and a Debian mirror.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

if [[ ${RECORDING:-} == "" ]]; then
  out=$(mkdir -p "${1:-$here}" && cd "${1:-$here}" && pwd)
  RECORDING=outside exec unshare --mount --propagation private bash "$here/record.sh" "$out"
fi

overlay() {  # makes the overlay at $1
  mount -t tmpfs -o size=3g kubereach-recording "$1"
  mkdir "$1"/{upper,work,all,out}
  mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/all"
  mount -t proc proc "$1/all/proc"
  # Settings of the machine are out of reach; those of the network belong to the namespace.
  mount --bind "$1/all/proc/sys" "$1/all/proc/sys"
  mount --bind "$1/all/proc/sys/net" "$1/all/proc/sys/net"
  mount -o remount,bind,ro "$1/all/proc/sys"
  mount --rbind /sys "$1/all/sys"
  mount --rbind /dev "$1/all/dev"
  mount -t tmpfs tmpfs "$1/all/run"
  mount -t tmpfs tmpfs "$1/all/tmp"
  mkdir "$1/all/tmp/out"
  cp "$here/record.sh" "$1/all/tmp/"
}

if [[ $RECORDING == outside ]]; then
  place=$(mktemp -d)
  trap 'umount -l "$place"; rmdir "$place"; find /sys/fs/cgroup -depth -type d -path "*/kubereach-recording*" -exec rmdir {} +' EXIT
  overlay "$place"
  printf '#!/bin/sh\nexit 101\n' > "$place/all/usr/sbin/policy-rc.d"
  chmod +x "$place/all/usr/sbin/policy-rc.d"
  export DEBIAN_FRONTEND=noninteractive
  chroot "$place/all" apt-get -q update
  chroot "$place/all" apt-get -q -y --no-install-recommends install docker.io firewalld ufw dbus busybox-static
  for recorded in docker firewalld-nftables firewalld-iptables ufw; do
    RECORDING=$recorded unshare --net --pid --fork --kill-child chroot "$place/all" bash /tmp/record.sh
  done
  cp "$place/all/tmp/out/"* "$1/"
  exit
fi

# From here on: in the overlay, in a network namespace of its own.
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount --bind /proc/sys/net /proc/sys/net
mount -o remount,bind,ro /proc/sys
ip link set lo up
ip link add eth0 type veth peer name eth0-peer
ip addr add 10.70.0.2/24 dev eth0
ip -6 addr add fd70::2/64 dev eth0 nodad
ip link set eth0 up
ip link set eth0-peer up
ip route add default via 10.70.0.1

save() {  # as the agent's readers ask
  iptables-nft-save -c > "/tmp/out/$1.iptables"
  ip6tables-nft-save -c > "/tmp/out/$1.ip6tables"
  ipset save > "/tmp/out/$1.ipset"
  nft list ruleset > "/tmp/out/$1.nft" 2>/dev/null
  nft -j list ruleset > "/tmp/out/$1.nft.json"
}

until_it_holds() {  # a command, for at most 30 s
  for _ in $(seq 300); do
    if "$@" > /dev/null 2>&1; then return; fi
    sleep 0.1
  done
  echo "error: not within 30 s: $*" >&2
  return 1
}

record_docker() {
  local docker=(/usr/bin/docker -H unix:///run/docker.sock)
  /usr/sbin/dockerd -H unix:///run/docker.sock --data-root /tmp/docker --exec-root /run/docker -p /run/docker.pid \
    --storage-driver vfs --cgroup-parent /kubereach-recording --ipv6 --ip6tables --experimental --fixed-cidr-v6 fd71::/64 \
    > /run/dockerd.log 2>&1 &
  until_it_holds "${docker[@]}" info || { cat /run/dockerd.log >&2; return 1; }
  tar -C / -c bin/busybox | "${docker[@]}" import - box > /dev/null
  "${docker[@]}" network create --subnet 172.30.0.0/24 shop > /dev/null
  "${docker[@]}" network create --internal --subnet 172.31.0.0/24 inner > /dev/null
  "${docker[@]}" network create --subnet 172.32.0.0/24 -o com.docker.network.bridge.enable_icc=false apart > /dev/null
  "${docker[@]}" network create --subnet 172.33.0.0/24 -o com.docker.network.bridge.name=named0 named > /dev/null
  "${docker[@]}" run -d --name web -p 8080:80 -p 127.0.0.1:8443:443/tcp -p 5353:53/udp box /bin/busybox sleep 600
  "${docker[@]}" run -d --name cart --network shop -p 10.70.0.2:8081:80 box /bin/busybox sleep 600
  "${docker[@]}" run -d --name named --network named -p 8082:80 box /bin/busybox sleep 600
  save docker
  "${docker[@]}" rm -f web cart named
  kill "$(cat /run/docker.pid)"
  wait
}

record_firewalld() {  # with the back end $1
  sed -i "s/^FirewallBackend=.*/FirewallBackend=$1/" /etc/firewalld/firewalld.conf
  mkdir -p /run/dbus
  dbus-daemon --system --nofork --nopidfile &
  local bus=$!
  until_it_holds test -S /run/dbus/system_bus_socket
  firewalld --nofork --nopid > /run/firewalld.log 2>&1 &
  local daemon=$!
  until_it_holds firewall-cmd --state || { cat /run/firewalld.log >&2; return 1; }
  local call
  for call in "--zone=public --add-interface=eth0" "--zone=public --add-service=http" "--zone=public --add-port=8443/tcp" \
    "--zone=public --add-port=2000-2100/udp" "--zone=public --add-source-port=123/udp" "--zone=public --add-protocol=esp" \
    "--zone=public --add-forward-port=port=8080:proto=tcp:toport=80:toaddr=10.70.0.9" "--zone=public --add-masquerade" \
    "--zone=public --add-icmp-block=redirect" "--zone=trusted --add-source=10.71.0.0/24" \
    "--zone=drop --add-source=10.72.0.0/24"; do
    # shellcheck disable=SC2086 - words, each an option
    firewall-cmd -q $call
  done
  firewall-cmd -q --zone=public --add-rich-rule='rule family=ipv4 source address=10.73.0.0/24 service name=ssh log prefix=ssh level=info limit value=3/m drop'
  firewall-cmd -q --zone=public --add-rich-rule='rule family=ipv6 source address=fd73::/64 port port=22 protocol=tcp reject'
  firewall-cmd -q --direct --add-rule ipv4 filter FORWARD 0 -s 10.74.0.0/24 -j DROP
  save "firewalld-$1"
  kill "$daemon" && wait "$daemon" || true
  kill "$bus" && wait "$bus" || true
}

record_ufw() {
  # Its settings of the kernel are not part of its rules.
  sed -i 's/^IPT_SYSCTL=.*/IPT_SYSCTL=/' /etc/default/ufw
  ufw --force enable
  ufw allow 22/tcp
  ufw limit 2222/tcp
  ufw deny from 10.73.0.0/24 to any port 25 proto tcp comment 'no mail'
  ufw reject out 23/tcp
  ufw allow in on eth0 from fd73::/64
  ufw route allow in on eth0 out on lo to 10.70.0.9 port 80 proto tcp
  ufw route deny log-all from 10.74.0.0/24
  ufw default deny routed
  ufw logging high
  save ufw
}

case $RECORDING in
  docker | ufw) "record_$RECORDING" ;;
  firewalld-*) record_firewalld "${RECORDING#*-}" ;;
esac
