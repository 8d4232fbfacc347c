"""The mount and host-name namespaces of a node: what kubelet, containerd and network plugins write stays the node's.

One pair a node, shared by all its daemons: a volume that the kubelet mounts must be seen by containerd. In it /run is
the node's own, /etc, /opt, /var/lib and /var/log are overlays of the machine's, and kernel settings that a kubelet
would change for the whole machine are shown to it as it wants them. It all vanishes with the last process and handle.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.kubernetes import build
from lab.netns import NetnsError
from lab.spec import NodeSpec, Topology

# pkg/kubelet/cm/container_manager_linux.go, setupKernelTunables: a kubelet leaves alone what is so already.
KUBELET_SETTINGS: Final = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
OVERLAYS: Final = ("etc", "opt", "var/lib", "var/log")
READY_S: Final = 30.0
_SCRIPT: Final = """
base=$1 name=$2 plugins=$3; shift 3
hostname "$name"
mount --make-rprivate /
for directory in "$@"; do
  over=$base/overlay/$(echo "$directory" | tr / -)
  mkdir -p "$over/upper" "$over/work"
  mount -t overlay overlay -o "lowerdir=/$directory,upperdir=$over/upper,workdir=$over/work" "/$directory"
done
mkdir -p /etc/cni/net.d /opt/cni/bin "$base/overlay/plugins/upper" "$base/overlay/plugins/work"
mount --bind "$base/cni/net.d" /etc/cni/net.d
mount -t overlay overlay \
  -o "lowerdir=$plugins,upperdir=$base/overlay/plugins/upper,workdir=$base/overlay/plugins/work" /opt/cni/bin
(cd "$base/sysctl" && find . -type f) | while read -r setting; do
  if [ -e "/proc/sys/$setting" ]; then mount --bind "$base/sysctl/$setting" "/proc/sys/$setting"; fi
done
mount --bind /run/kubereach "$base/run/kubereach"
mount --rbind "$base/run" /run
mount --make-rshared /
echo ready
read -r _
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Open handles of a node's namespaces, which live as long as these are open in this process."""

    mount: int
    uts: int

    @property
    def enter(self) -> tuple[str, ...]:
        """Options for nsenter."""
        base = f"/proc/{os.getpid()}/fd"
        return (f"--mount={base}/{self.mount}", f"--uts={base}/{self.uts}")


def _prepare_files(topology: Topology, node: NodeSpec) -> Path:
    base = topology.node_directory(node.name)
    for name in ("run/kubereach", "cni/net.d", "sysctl", "overlay/etc/upper"):
        (base / name).mkdir(parents=True, exist_ok=True)
    for name, value in KUBELET_SETTINGS.items():
        path = base / "sysctl" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    etc = base / "overlay/etc/upper"
    # What the host itself asks, and pods with dnsPolicy Default: the outside's name server.
    servers = [topology.outside_ipv4, *([topology.outside_ipv6] if topology.outside_ipv6 else [])]
    (etc / "resolv.conf").write_text("".join(f"nameserver {server}\n" for server in servers))
    hosts = ["127.0.0.1 localhost", *(f"{address} {node.name}" for address in node.addresses)]
    (etc / "hosts").write_text("\n".join(hosts) + "\n")
    (etc / "hostname").write_text(f"{node.name}\n")
    return base


async def open_place(topology: Topology, node: NodeSpec) -> Place:
    """Make a node's namespaces and return the handles; raises NetnsError with the failed command's words."""
    base = _prepare_files(topology, node)
    argv = ["unshare", "--mount", "--uts", "sh", "-ec", _SCRIPT, "node"]
    process = await asyncio.create_subprocess_exec(
        *argv,
        *(str(base), node.name, str(build.plugin_directory()), *OVERLAYS),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(READY_S):
            if await process.stdout.readline() == b"ready\n":
                return Place(*(os.open(f"/proc/{process.pid}/ns/{kind}", os.O_RDONLY) for kind in ("mnt", "uts")))
            _, said = await process.communicate()
    except TimeoutError:
        said = b"took too long"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    raise NetnsError(f"mounts of {node.name}: {said.decode(errors='replace').strip() or 'no message'}")
